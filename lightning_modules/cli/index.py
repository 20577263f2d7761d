"""``lightning index SHARDS``: a small file beside each tar that says where its samples lie."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from datamodules.shards.discovery import ShardError, expand_local_shards, refuse_damaged
from datamodules.shards.tar_index import TarError, stored_index, write_index
from lightning_modules.errors import fail


def run(args: Namespace) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    try:
        tars = [Path(tar) for tar in expand_local_shards(args.shards, "indexed")]
        missing = [tar for tar in tars if args.again or stored_index(tar) is None]
        start = time.perf_counter()
        counts = list(_write_indexes(missing, args.processes))
    except (ShardError, OSError) as error:
        fail(str(error))
    seconds = time.perf_counter() - start
    samples, strays = (sum(numbers) for numbers in zip((0, 0), *counts, strict=True))
    sys.stdout.write(
        f"indexed {len(missing)} of {len(tars)} shards: {samples} samples in {seconds:.1f} s; "
        f"{len(tars) - len(missing)} had their index\n"
    )
    if strays:
        sys.stdout.write(f"{strays} members belong to no sample and are not read\n")
    return 0


def _write_indexes(tars: Sequence[Path], processes: int) -> Iterator[tuple[int, int]]:
    if processes == 1:
        yield from map(_index, tars)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_index, tars)


def _index(tar: Path) -> tuple[int, int]:
    """Samples, and members that belong to none."""
    try:
        index = write_index(tar)
    except TarError as error:
        raise refuse_damaged(tar, error) from error
    return len(index), index.strays
