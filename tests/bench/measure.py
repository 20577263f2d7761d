"""Seconds and extra peak memory of a piece of work, each side in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile


class Cost(NamedTuple):
    """Of one run of the work."""

    seconds: float  # the best of several
    mib: float  # by which the process grew beyond what the inputs and modules take
    spread: float  # of the seconds: by how much the worst is above the best, as a share of it


def cost(make: Callable[..., Callable[[], None]], *arguments: Any, repeats: int = 3) -> Cost:
    """The cost of ``make(*arguments)()`` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (make, arguments, repeats))


def _measure(make: Callable[..., Callable[[], None]], arguments: tuple, repeats: int) -> Cost:
    work = make(*arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return Cost(min(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, spread(seconds))


def spread(seconds: list[float]) -> float:
    """By how much the worst is above the best, as a share of the best."""
    return max(seconds) / min(seconds) - 1


def tensor_peak(work: Callable[[], None]) -> float:
    """MiB of tensors that ``work`` holds at its peak, beyond those that were there; counted, so the same every time."""
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    taken = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    return max(accumulate(number for _, number in taken)) / 2**20


class Turns(NamedTuple):
    """Of old and new work in turns."""

    old: float  # seconds of processor time, the best of several
    new: float
    spread: float  # of the side that varied more


@contextmanager
def _silent() -> Iterator[None]:
    """Without the lines that the profiler's own library writes past Python."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def taking_turns(make: Callable[..., Callable[[], None]], *arguments: Any, repeats: int = 3) -> Turns:
    """The costs of ``make("old", ...)`` and ``make("new", ...)``, in turns in one fresh process.

    Processor time: of work on one core this tells more than the clock where other processes run beside it.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_in_turns, (make, arguments, repeats))


def _in_turns(make: Callable[..., Callable[[], None]], arguments: tuple, repeats: int) -> Turns:
    torch.set_num_threads(1)
    sides = [make(side, *arguments) for side in ("old", "new")]
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        for side, work in enumerate(sides):
            start = time.process_time()
            work()
            seconds[side].append(time.process_time() - start)
    return Turns(min(seconds[0]), min(seconds[1]), max(map(spread, seconds)))
