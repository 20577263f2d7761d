"""Runs a function on several ranks: one process each, gloo, on this machine."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

ROOT = Path(__file__).resolve().parents[2]
SLOW_IMPORTS = (
    "torch",
    "torch._dynamo",
    "lightning.pytorch",
    "transformers",
    "timm",
    "lightning_modules.callbacks",
    "datamodules.prepare",
)


def run_on_ranks(fn: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """``fn(*args)`` on ``world_size`` ranks; what each returned, in order of rank. An error on a rank is raised here.

    ``fn`` is a function of a module's top level; arguments and results are what `torch.save` can write. Each process
    has one torch thread. Processes are forked from a clean server that has imported the slow packages once.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.save(args, Path(folder, "args.pt"))
        try:
            start_processes(_on_rank, (fn, world_size, folder), nprocs=world_size, start_method="forkserver")
        except Exception as error:  # the first to end may be a rank that only lost its connection to the one at fault
            told = [file.read_text() for file in sorted(Path(folder).glob("*.error"))]
            raise RuntimeError("\n".join(told) or str(error)) from error
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(world_size)]


def prepare_server() -> None:
    """Whoever starts the server that processes are forked from, be it code under test, starts one that finds our
    modules and has imported the slow packages. Called once, before any test.
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # the processes import `fn` by the name of its module, from the same path
    multiprocessing.set_forkserver_preload(list(SLOW_IMPORTS))


def _on_rank(rank: int, fn: Callable[..., Any], world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    meeting = Path(folder, "store").as_uri()
    dist.init_process_group("gloo", meeting, timedelta(seconds=60), world_size, rank)
    try:
        result = _told(fn, Path(folder, f"{rank}.error"), *torch.load(Path(folder, "args.pt"), weights_only=False))
        torch.save(result, Path(folder, f"{rank}.pt"))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _told(fn: Callable[..., Any], file: Path, *args: Any) -> Any:
    """``fn(*args)``; an error is also written to a file."""
    try:
        return fn(*args)
    except Exception:
        file.write_text(traceback.format_exc())
        raise
