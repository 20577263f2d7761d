"""The transfer of a shard's bytes by the command-line client of its storage, which is stopped when it hangs."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 20  # bytes read at once
_PROGRESS_BYTES = 1 << 16  # bytes that count as progress
_POLL = 0.2  # seconds after which a request to stop is seen
_CURL = ("curl", "--fail", "--silent", "--show-error", "--location", "--connect-timeout", "30")
_UNREACHABLE = {5, 6, 7, 16, 18, 28, 35, 52, 55, 56, 92}  # curl: no host, no connection, broken off, too slow
_BUSY = re.compile(r"error: (408|425|429|5\d\d)")  # HTTP: later, perhaps


class RefusedError(OSError):
    """Storage refuses the shard."""


class TransferStopped(Exception):
    """The transfer was stopped by its caller."""


def receive(url: str, file: IO[bytes], stall: float, stop: threading.Event) -> None:
    """Append the bytes of ``url`` to ``file``; its scheme is pipe, http, https, s3, gs, hf, ais or file.

    Raises:
        RefusedError: there is no such shard, or the command fails.
        OSError: storage does not answer, breaks off, or sends nothing for ``stall`` seconds.
        TransferStopped: ``stop`` was set.
    """
    command = command_for(url)
    if command is not None:
        _run(command, file, stall, stop)
        return
    with open_local(re.sub(r"^file:(//)?", "", url)) as source:
        while part := source.read(_CHUNK):
            file.write(part)
            if stop.is_set():
                raise TransferStopped


def open_local(path: str) -> IO[bytes]:
    """Open a local file. Raises ``RefusedError`` where it does not exist or may not be read."""
    try:
        return Path(path).open("rb")
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise RefusedError(error.strerror) from error


def command_for(url: str) -> str | list[str] | None:
    """The command, for the shell where it is a string, that prints the bytes of ``url``; None: a local file.

    Raises ``OSError`` where the hub does not resolve the address.
    """
    scheme, _, command = url.partition(":")
    if scheme == "pipe":
        return command
    if scheme in ("http", "https"):
        return [*_CURL, "--", url]
    if scheme == "hf":
        return _from_hub(url)
    return {
        "s3": ["aws", "s3", "cp", "--only-show-errors", url, "-"],
        "gs": ["gsutil", "cat", url],
        "ais": ["ais", "get", url, "-"],
    }.get(scheme)


def _from_hub(url: str) -> list[str]:
    from huggingface_hub import HfFileSystem, get_token, hf_hub_url  # slow to import, and few need it

    try:
        file: Any = HfFileSystem().resolve_path(url)
    except Exception as error:  # the hub's client has errors of several libraries
        raise ConnectionError(f"the hub does not resolve it: {error}") from error
    address = hf_hub_url(file.repo_id, file.path_in_repo, repo_type=file.repo_type, revision=file.revision)
    token = get_token()
    return [*_CURL, *(["--header", f"Authorization: Bearer {token}"] if token else []), "--", address]


def _run(command: str | list[str], file: IO[bytes], stall: float, stop: threading.Event) -> None:
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, shell=isinstance(command, str), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=errors, start_new_session=True, bufsize=0,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise RefusedError(f"there is no command {command[0]!r} on this machine") from error
        try:
            assert process.stdout is not None
            _copy_output(process.stdout, file, stall, stop)
            status = process.wait(stall)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"its command sent all, but does not end in {stall:g} s") from error
        finally:
            _end(process)
        if status:
            raise _failure(command, status, errors)


def _copy_output(source: IO[bytes], file: IO[bytes], stall: float, stop: threading.Event) -> None:
    received, last_mark, deadline = 0, 0, time.monotonic() + stall
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while True:
            if stop.is_set():
                raise TransferStopped
            if time.monotonic() > deadline:
                raise TimeoutError(f"it hangs: {received - last_mark} bytes in {stall:g} s, {received} in all")
            if not selector.select(_POLL):
                continue
            part = os.read(source.fileno(), _CHUNK)
            if not part:
                return
            file.write(part)
            received += len(part)
            if received - last_mark >= _PROGRESS_BYTES:
                last_mark, deadline = received, time.monotonic() + stall


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the command and all processes that it has started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _failure(command: str | list[str], status: int, errors: IO[bytes]) -> OSError:
    errors.seek(max(errors.seek(0, os.SEEK_END) - 2000, 0))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    message = f"{lines[-1].strip()[:200]} (exit status {status})" if lines else f"exit status {status}"
    curl = not isinstance(command, str) and command[0] == "curl"
    if curl and (status in _UNREACHABLE or (status == 22 and _BUSY.search(message))):
        return ConnectionError(message)
    return RefusedError(message)
