"""``lightning inspect SHARDS``: look at samples, in the terminal or as a web page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from datamodules.indexed import Source, TarReader
from datamodules.inspection import look_at, page, panel
from datamodules.order import hash_key, permutation
from datamodules.shards import ShardError, find_shards
from lightning_modules.complaints import fail


def run(arguments: Sequence[str]) -> int:
    """Show samples from the words of a command line; ``SystemExit(2)`` with one line on bad input."""
    parser = argparse.ArgumentParser(prog="lightning inspect", description=__doc__)
    parser.add_argument("shards", nargs="+", help="tars, folders of tars, globs or braces")
    parser.add_argument("--number", type=int, default=8, help="how many samples")
    parser.add_argument("--seed", type=int, help="draw them at random; without it the first ones are shown")
    parser.add_argument("--key", action="append", default=[], help="show the samples with this key (several times)")
    parser.add_argument("--html", type=Path, help="write a web page there instead")
    given = parser.parse_args(arguments)
    if given.number < 1:
        fail(f"--number must be at least 1, got {given.number}")
    try:
        shards = find_shards(given.shards)
        if any(shard.samples is None for shard in shards):
            raise ShardError("only local shards can be inspected")
        reader = TarReader(Source.of(shards))
        numbers = _keyed(reader, given.key) if given.key else _chosen(len(reader), given.number, given.seed)
        shown = look_at(reader, numbers)
        if given.html is None:
            Console().print(*map(panel, shown), sep="\n")
        else:
            title = f"{len(numbers)} of {len(reader)} samples of {', '.join(given.shards)}"
            given.html.write_text(page(shown, title), encoding="utf-8")
            Console().print(f"written: {given.html}", markup=False, soft_wrap=True)
    except (ShardError, OSError) as error:
        fail(str(error))
    return 0


def _chosen(samples: int, number: int, seed: int | None) -> list[int]:
    first = range(samples) if seed is None else permutation(samples, hash_key(seed)).tolist()
    return list(first[:number])


def _keyed(reader: TarReader, keys: list[str]) -> list[int]:
    found = [n for n in range(len(reader)) if reader.name(n)[1] in keys]
    if not found:
        raise ShardError(f"no sample has the key {', '.join(keys)}")
    return found
