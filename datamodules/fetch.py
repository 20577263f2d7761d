"""Remote shards, fetched whole: a thread copies the next ones while this one is read.

A shard is copied into a file without a name, so a process that is killed leaves nothing behind, and read by index like
a local one. No more than ``AHEAD`` shards beyond those in use are kept. The folder is ``$GRAINCLIP_CACHE`` where set,
else the system's for temporary files.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from webdataset.gopen import gopen

from datamodules.shards import is_remote
from datamodules.tar_index import TarError, TarIndex, scan

AHEAD = 2  # shards
_TRIES = 3
_PAUSE = 1.0  # seconds before the second try; then twice as long

T = TypeVar("T")


class Fetched(NamedTuple):
    """A shard at hand. ``problem`` says why it, or what follows the samples in ``index``, could not be read."""

    url: str
    file: IO[bytes]
    index: TarIndex
    problem: str

    def read(self, number: int) -> dict[str, Any]:
        """A sample's members, still encoded. Raises ``SampleError``."""
        return self.index.read(self.file.fileno(), number)


def fetch(url: str) -> Fetched:
    """Copy a shard and find its samples; what fails is tried again, then told in the result."""
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            return _indexed(url, _copy(url))
        except Exception as error:  # each scheme has errors of its own
            problem = f"it could not be fetched: {error!r}"
    nothing = TarIndex(np.zeros((0, 3, 2), np.int64), np.zeros(0, np.uint8), np.zeros(0, np.uint8), np.zeros(0, int))
    return Fetched(url, tempfile.TemporaryFile(), nothing, problem)


def _copy(url: str) -> IO[bytes]:
    if not is_remote(url):
        return Path(url).open("rb")
    if url.startswith("s3:"):  # webdataset knows no s3; the AWS command line does
        url = f"pipe:aws s3 cp {shlex.quote(url)} -"
    with ExitStack() as undo:
        file = undo.enter_context(tempfile.TemporaryFile(prefix="grainclip-", dir=_folder()))
        with gopen(url, "rb") as stream:
            shutil.copyfileobj(stream, file, 1 << 20)
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


def fetched_ahead(steps: Iterable[tuple[T, str | None]]) -> Iterator[tuple[T, Fetched | None]]:
    """The shards of ``steps``, each with what it is paired with; the next ``AHEAD`` are being copied meanwhile.

    A step without URL gives None in its turn.
    """
    waiting: deque[tuple[T, Future[Fetched] | None]] = deque()
    rest = iter(steps)
    pool = ThreadPoolExecutor(1, "fetch")
    try:
        while True:
            while len(waiting) <= AHEAD and (step := next(rest, None)) is not None:
                tag, url = step
                waiting.append((tag, None if url is None else pool.submit(fetch, url)))
            if not waiting:
                return
            tag, future = waiting.popleft()
            yield tag, None if future is None else future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
