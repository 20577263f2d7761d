"""Remote shards, fetched whole: a thread copies the next ones while this one is read.

A shard is copied into an unnamed temporary file, so a killed process leaves nothing behind, and is read by index like
a local one. At most ``AHEAD`` shards are copied beyond those in use. The folder is ``$GRAINCLIP_CACHE`` where set,
else the system's for temporary files.

A failed transfer is repeated, with growing pauses: a few times where storage refuses (404, a command that fails), and
for as long as ``FetchPolicy`` says where storage does not answer, breaks off or is overloaded.
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
from datamodules.shards.transfer import RefusedError, TransferStopped, open_local, receive

AHEAD = 2  # shards
_PAUSE = 1.0  # seconds before the second try, on average; then twice as long, and so on
_MAX_PAUSE = 30.0
_WARN_AFTER = 10.0  # seconds of failures after which one warning is logged

T = TypeVar("T")
logger = logging.getLogger("grainclip")


@dataclass(frozen=True)
class FetchPolicy:
    """Time limits and retries for remote storage.

    Args:
        stall: seconds without data after which a transfer, or a command that hangs, is stopped.
        patience: seconds of retries where storage does not answer. Several shards in a row that fail after as long
            stop the run.
        tries: number of tries where storage refuses a shard.
    """

    stall: float = 60.0
    patience: float = 180.0
    tries: int = 3

    def __post_init__(self) -> None:
        at_least("data.fetch", 0.1, stall=self.stall)
        at_least("data.fetch", 0, patience=self.patience)
        at_least("data.fetch", 1, tries=self.tries)


class FetchedShard(NamedTuple):
    """A local copy of a shard. ``problem``: why the samples that ``index`` lacks could not be read; "" if it is whole.

    ``seconds`` were spent on it where there is a problem.
    """

    url: str
    file: IO[bytes]
    index: TarIndex  # pyright: ignore[reportIncompatibleMethodOverride] a field, no tuple.index
    problem: str
    seconds: float = 0.0

    def read(self, number: int) -> dict[str, Any]:
        """A sample's members, still encoded. Raises ``SampleError``."""
        return self.index.read(self.file.fileno(), number)


def fetch(url: str, policy: FetchPolicy, stop: threading.Event | None = None) -> FetchedShard:
    """Copy a shard and index its samples; the result has the failure that remains. Raises ``TransferStopped``."""
    stop = stop or threading.Event()
    start, tries, refusals, warned = time.monotonic(), 0, 0, False
    best: FetchedShard | None = None  # the longest part of a cut tar
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
        pause = min(_PAUSE * 2 ** (tries - 1), _MAX_PAUSE) * random.SystemRandom().uniform(0.5, 1.5)
        if refusals >= policy.tries or seconds + pause > policy.patience:
            problem = f"{problem} ({tries} tries in {seconds:.0f} s)"
            return best._replace(problem=problem, seconds=seconds) if best else _empty_shard(url, problem, seconds)
        if seconds > _WARN_AFTER and not warned:
            warned = True
            logger.warning("%s: %s; tried again for %.0f s", url, problem, policy.patience)
        if stop.wait(pause):
            raise TransferStopped


def _empty_shard(url: str, problem: str, seconds: float) -> FetchedShard:
    empty = TarIndex(np.zeros((0, 3, 2), np.int64), np.zeros(0, np.uint8), np.zeros(0, np.uint8), np.zeros(0, int))
    return FetchedShard(url, tempfile.TemporaryFile(), empty, problem, seconds)


def _copy(url: str, stall: float, stop: threading.Event) -> IO[bytes]:
    if not is_remote(url):
        return open_local(url)
    with ExitStack() as undo:
        file = undo.enter_context(tempfile.TemporaryFile(prefix="grainclip-", dir=_cache_folder()))
        receive(url, file, stall, stop)
        undo.pop_all()
    return file


def _cache_folder() -> str | None:
    folder = os.environ.get("GRAINCLIP_CACHE")
    if folder:
        os.makedirs(folder, exist_ok=True)
    return folder or None


def _indexed(url: str, file: IO[bytes]) -> FetchedShard:
    file.seek(0)
    try:
        return FetchedShard(url, file, scan(file), "")
    except TarError as error:
        return FetchedShard(url, file, error.index, f"the tar cannot be read on: {error}")


def fetch_ahead(steps: Iterable[tuple[T, str | None]], policy: FetchPolicy) -> Iterator[tuple[T, FetchedShard | None]]:
    """The shards of ``steps``, pairs of a tag and a URL, each with its tag; the next ``AHEAD`` are copied meanwhile.

    A step without URL gives None. Closing the iterator ends all transfers.
    """
    queue: deque[tuple[T, Future[FetchedShard] | None]] = deque()
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
