"""Remote shards, fetched whole: a thread copies the next ones while this one is read.

A shard is copied into a file without a name, so a process that is killed leaves nothing behind, and read by index like
a local one. No more than ``AHEAD`` shards beyond those in use are kept. The folder is ``$GRAINCLIP_CACHE`` where set,
else the system's for temporary files.

What fails is tried again, with growing pauses. Storage that answers "no" (404, a command that fails) is asked a few
times, storage that does not answer, breaks off or is overloaded for as long as ``FetchPolicy`` says.
"""

from __future__ import annotations

import logging
import os
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from datamodules.bounds import at_least
from datamodules.shards.discovery import is_remote
from datamodules.shards.tar_index import TarError, TarIndex, scan
from datamodules.shards.transfer import RefusedError, Stopped, opened, receive

AHEAD = 2  # shards
_PAUSE = 1.0  # seconds before the second try, on average; then twice as long, and so on
_LONGEST_PAUSE = 30.0
_TELL = 10.0  # seconds of failing after which one line says so

T = TypeVar("T")
logger = logging.getLogger("grainclip")


@dataclass(frozen=True)
class FetchPolicy:
    """Time limits and retries for remote storage.

    Args:
        stall: seconds without data after which a transfer is ended, a command that hangs included.
        patience: seconds for which a shard is asked for again where storage gives no answer. Several shards in a row
            that take as long and do not come end the run.
        tries: how often a shard is asked for that storage refuses.
    """

    stall: float = 60.0
    patience: float = 180.0
    tries: int = 3

    def __post_init__(self) -> None:
        at_least("data.fetch", 0.1, stall=self.stall)
        at_least("data.fetch", 0, patience=self.patience)
        at_least("data.fetch", 1, tries=self.tries)


class Fetched(NamedTuple):
    """A shard at hand. ``problem`` says why it, or all behind the samples in ``index``, could not be read, after so
    many ``seconds``.
    """

    url: str
    file: IO[bytes]
    index: TarIndex  # pyright: ignore[reportIncompatibleMethodOverride] a field, no tuple.index
    problem: str
    seconds: float = 0.0

    def read(self, number: int) -> dict[str, Any]:
        """A sample's members, still encoded. Raises ``SampleError``."""
        return self.index.read(self.file.fileno(), number)


def fetch(url: str, policy: FetchPolicy, stop: threading.Event | None = None) -> Fetched:
    """Copy a shard and find its samples; failures that remain are told in the result. Raises ``Stopped``."""
    stop = stop or threading.Event()
    start, tries, refusals, warned = time.monotonic(), 0, 0, False
    best: Fetched | None = None  # of a tar that is cut, the longest part
    while True:
        try:
            fetched = _indexed(url, _copy(url, policy.stall, stop))
            if not fetched.problem:
                return fetched
            best, shorter = (fetched, best) if best is None or len(fetched.index) > len(best.index) else (best, fetched)
            if shorter is not None:
                shorter.file.close()
            problem, refusals = fetched.problem, refusals + 1
        except RefusedError as error:
            problem, refusals = f"it could not be fetched: {error}", refusals + 1
        except (OSError, EOFError) as error:
            problem = f"it could not be fetched: {error}"
        tries += 1
        seconds = time.monotonic() - start
        pause = min(_PAUSE * 2 ** (tries - 1), _LONGEST_PAUSE) * random.SystemRandom().uniform(0.5, 1.5)
        if refusals >= policy.tries or seconds + pause > policy.patience:
            problem = f"{problem} ({tries} tries in {seconds:.0f} s)"
            return best._replace(problem=problem, seconds=seconds) if best else _nothing(url, problem, seconds)
        if seconds > _TELL and not warned:
            warned = True
            logger.warning("%s: %s; tried again for %.0f s", url, problem, policy.patience)
        if stop.wait(pause):
            raise Stopped


def _nothing(url: str, problem: str, seconds: float) -> Fetched:
    empty = TarIndex(np.zeros((0, 3, 2), np.int64), np.zeros(0, np.uint8), np.zeros(0, np.uint8), np.zeros(0, int))
    return Fetched(url, tempfile.TemporaryFile(), empty, problem, seconds)


def _copy(url: str, stall: float, stop: threading.Event) -> IO[bytes]:
    if not is_remote(url):
        return opened(url)
    with ExitStack() as undo:
        file = undo.enter_context(tempfile.TemporaryFile(prefix="grainclip-", dir=_folder()))
        receive(url, file, stall, stop)
        undo.pop_all()
    return file


def _folder() -> str | None:
    folder = os.environ.get("GRAINCLIP_CACHE")
    if folder:
        os.makedirs(folder, exist_ok=True)
    return folder or None


def _indexed(url: str, file: IO[bytes]) -> Fetched:
    file.seek(0)
    try:
        return Fetched(url, file, scan(file), "")
    except TarError as error:
        return Fetched(url, file, error.index, f"the tar cannot be read on: {error}")


def fetched_ahead(steps: Iterable[tuple[T, str | None]], policy: FetchPolicy) -> Iterator[tuple[T, Fetched | None]]:
    """The shards of ``steps``, each with its partner; the next ``AHEAD`` are being copied meanwhile.

    A step without URL gives None in its turn. Closing the iterator ends all transfers.
    """
    queue: deque[tuple[T, Future[Fetched] | None]] = deque()
    remaining, stop = iter(steps), threading.Event()
    pool = ThreadPoolExecutor(1, "fetch")
    try:
        while True:
            while len(queue) <= AHEAD and (step := next(remaining, None)) is not None:
                tag, url = step
                queue.append((tag, None if url is None else pool.submit(fetch, url, policy, stop)))
            if not queue:
                return
            tag, future = queue.popleft()
            yield tag, None if future is None else future.result()
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
