"""Kills a process at a random moment, as a scheduler or a power cut does."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from typing import Any


def kill_once_going(
    fn: Callable[..., Any], arguments: tuple, going: Callable[[], bool], within: float, rng: random.Random
) -> bool:
    """Run ``fn(*arguments)`` in a process of its own and kill it within so many seconds after ``going()`` holds.

    ``fn`` is a function of a module's top level. The process is forked from a clean server that has imported the slow
    packages once. False where it ended by itself before.
    """
    process = multiprocessing.get_context("forkserver").Process(target=fn, args=arguments)
    process.start()
    while process.is_alive() and not going():
        time.sleep(0.002)
    time.sleep(rng.uniform(0, within))
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), f"the process failed with exit code {process.exitcode}"
    return process.exitcode == -9
