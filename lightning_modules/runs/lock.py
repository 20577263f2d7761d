"""The lock of a run's folder: the file ``run.lock`` names the one process that may write.

The first rank takes it before anything is written, and gives it back at the end. A lock that a dead run left is
recognised: its process has ended, its host was started anew, its Slurm job has been queued again and started since, or,
on another host, nothing has been heard of it for ten minutes (a thread touches the file every minute).
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "run.lock"
HEARTBEAT, SILENCE = 60.0, 600.0  # seconds


class RunTaken(RuntimeError):
    """Another process writes into the run's folder."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock: enough to tell from anywhere whether it is still there."""

    host: str
    boot: str  # changes when the host is started anew
    namespace: str  # of process ids: containers may share a host's name
    pid: int
    started: str  # when the process began, in the system's own count
    job: str  # of Slurm; "" outside it
    restarts: int  # how often that job was queued again
    run: str  # the run's id
    since: str

    @classmethod
    def this_process(cls, run: str) -> Holder:
        """This process, for a run's lock."""
        return cls(
            host=socket.gethostname(),
            boot=_first_line("/proc/sys/kernel/random/boot_id"),
            namespace=_namespace(),
            pid=os.getpid(),
            started=process_start(os.getpid()),
            job=os.environ.get("SLURM_JOB_ID", ""),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0),
            run=run,
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
        )

    def gone(self, silent: float, me: Holder) -> str | None:
        """Why the holder is no longer there, or None.

        Args:
            silent: seconds since the lock was touched last, by the clock of the disk it lies on.
            me: the process that wants the lock.
        """
        if self.host == me.host and self.namespace == me.namespace:
            if self.boot != me.boot:
                return f"{self.host} was started anew since"
            if not _alive(self.pid) or process_start(self.pid) != self.started:
                return f"process {self.pid} on {self.host} has ended"
            return None
        if self.job and self.job == me.job and self.restarts < me.restarts:
            return f"start {self.restarts} of job {self.job} is over"
        if silent > SILENCE:
            return f"nothing was heard of {self.host} for {silent / 60:.0f} minutes"
        return None


class RunLock:
    """The right to write into ``folder``, for the run ``run``."""

    def __init__(self, folder: Path, run: str) -> None:
        self.file, self.me = folder / NAME, Holder.this_process(run)
        self.held = False
        self._end = threading.Event()

    def take(self) -> str | None:
        """Take the lock. Returns a message about a dead run's lock that was removed, or None.

        Raises:
            RunTaken: a living process holds it; one line that says which.
            OSError: the folder cannot be written to.
        """
        draft = self.file.with_name(f".{NAME}.{self.me.host}-{self.me.pid}")
        draft.write_text(json.dumps(asdict(self.me)), encoding="utf-8")
        message = None
        try:
            with _alone(self.file.parent):
                if not place(draft, self.file):
                    message = self._remove_dead(draft.stat().st_mtime)
                    if not place(draft, self.file):
                        raise RunTaken(f"{self.file.parent} has just been taken by another run; start again")
        finally:
            draft.unlink(missing_ok=True)
        self.held = True
        atexit.register(self.release)
        threading.Thread(target=self._live, daemon=True, name="run-lock").start()
        return message

    def release(self) -> None:
        """Release the lock; nothing where this process does not hold it."""
        if not self.held or os.getpid() != self.me.pid:
            return
        self.held = False
        self._end.set()
        atexit.unregister(self.release)
        if holder(self.file) == self.me:
            self.file.unlink(missing_ok=True)

    def follow(self, folder: Path) -> None:
        """Keep the lock after the folder was renamed to ``folder``."""
        self.file = folder / NAME

    def _remove_dead(self, now: float) -> str | None:
        try:
            content, silent = self.file.read_bytes(), now - self.file.stat().st_mtime
        except FileNotFoundError:
            return None  # given back this moment
        other = _parse(content)
        why = "it cannot be read" if other is None else other.gone(silent, self.me)
        if why is None:
            assert other is not None
            raise RunTaken(
                f"{self.file.parent} is being written by process {other.pid} on {other.host} since {other.since}: wait "
                f"for it, or --name OTHER; if it is dead, remove {self.file}"
            )
        aside = self.file.with_name(f".{NAME}.dead-{self.me.host}-{self.me.pid}")
        with suppress(FileNotFoundError):
            os.rename(self.file, aside)
            if aside.read_bytes() != content:  # another process took it meanwhile
                os.link(aside, self.file)
            aside.unlink()
        return f"{self.file}: left by a dead run ({why}); removed"

    def _live(self) -> None:
        while not self._end.wait(HEARTBEAT):
            if holder(self.file) != self.me:
                return
            with suppress(OSError):
                os.utime(self.file)


def holder(file: Path) -> Holder | None:
    """The holder of a lock; None where nobody does, or the file is damaged."""
    try:
        return _parse(file.read_bytes())
    except OSError:
        return None


def process_start(pid: int) -> str:
    """Start time of a process, in ticks since the system did; "" where there is none, or only its exit status is
    left.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _parse(content: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None


def place(draft: Path, file: Path) -> bool:
    """Atomically give ``draft`` the name ``file``; False where that exists."""
    try:
        os.link(draft, file)
    except FileExistsError:
        return False
    except OSError:  # a disk without links
        try:
            with file.open("xb") as out:
                out.write(draft.read_bytes())
        except FileExistsError:
            return False
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Context in which one process at a time inspects a folder's lock, where the disk supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _first_line(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
