"""Ranks as processes that a test may kill: forked, time and again, from one process that has imported everything."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

TIMEOUT = timedelta(seconds=60)  # after which a rank that waits for a lost one gives up; the tests state it


class WarmRanks:
    """``with WarmRanks("tests.some.module") as ranks``: then ``start``, kill who is to be killed, and ``wait``."""

    def __init__(self, *modules: str) -> None:
        context = get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._parent = context.Process(target=_serve, args=(theirs, modules))
        self._parent.start()
        theirs.close()

    def __enter__(self) -> WarmRanks:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._parent.join(10)

    def start(self, folder: Path, fn: Callable[..., Any], world: int, *args: Any) -> list[int]:
        """``fn(*args)`` on each of ``world`` ranks, or, where that is 0, in one process that is none; what they print
        goes to ``folder``. Their process ids.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("store*"):
            file.unlink()
        self._pipe.send((str(folder), fn.__module__, fn.__name__, world, args))
        return self._pipe.recv()

    def wait(self, pids: list[int], seconds: float) -> list[int | None]:
        """The exit status of each, negative for a signal; None, and killed, where ``seconds`` are too few."""
        self._pipe.send((pids, seconds))
        return self._pipe.recv()


def _serve(pipe: Connection, modules: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    for name in modules:
        importlib.import_module(name)
    while (order := pipe.recv()) is not None:
        if len(order) == 2:
            pipe.send(_wait(*order))
            continue
        folder, module, name, world, args = order
        fn = getattr(importlib.import_module(module), name)
        sys.stdout.flush()
        pids = []
        for rank in range(max(world, 1)):
            pid = os.fork()
            if pid == 0:
                _run(Path(folder), fn, rank, world, args)
            pids.append(pid)
        pipe.send(pids)


def _run(folder: Path, fn: Callable[..., Any], rank: int, world: int, args: tuple[Any, ...]) -> NoReturn:
    out = os.open(folder / f"{rank}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if world:
        _as_rank(rank, world)
    status = 1
    try:
        if world:
            dist.init_process_group("gloo", (folder / "store").as_uri(), TIMEOUT, world, rank)
        fn(*args)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _as_rank(rank: int, world: int) -> None:
    """Sets the environment variables of ``torchrun``."""
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT="0", LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")


def _wait(pids: list[int], seconds: float) -> list[int | None]:
    end, ended = time.monotonic() + seconds, dict.fromkeys(pids)
    while None in ended.values() and time.monotonic() < end:
        for pid in [pid for pid, status in ended.items() if status is None]:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    for pid in [pid for pid, status in ended.items() if status is None]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return list(ended.values())
