"""``lightning inspect SHARDS``: look at samples, in the terminal or as a web page."""

from __future__ import annotations

from argparse import Namespace

from rich.console import Console

from datamodules.atomic_write import write_text
from datamodules.reading.shuffle_order import hash_key, permutation
from datamodules.shards.discovery import ShardError, find_shards
from datamodules.shards.reader import IndexedShards, TarReader
from datamodules.shards.viewer import page, panel, view_samples
from lightning_modules.cli.output_paths import make_room
from lightning_modules.errors import fail


def run(args: Namespace) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    try:
        if args.html is not None:
            make_room(args.html, "--html")
        shards = find_shards(args.shards)
        if any(shard.samples is None for shard in shards):
            raise ShardError("only local shards can be inspected")
        reader = TarReader(IndexedShards.of(shards))
        numbers = _with_keys(reader, args.key) if args.key else _first_or_random(len(reader), args.number, args.seed)
        views = view_samples(reader, numbers)
        if args.html is None:
            Console().print(*map(panel, views), sep="\n")
        else:
            title = f"{len(numbers)} of {len(reader)} samples of {', '.join(args.shards)}"
            write_text(args.html, page(views, title))
            Console().print(f"written: {args.html}", markup=False, soft_wrap=True)
    except (ValueError, OSError) as error:
        fail(str(error))
    return 0


def _first_or_random(samples: int, number: int, seed: int | None) -> list[int]:
    order = range(samples) if seed is None else permutation(samples, hash_key(seed)).tolist()
    return list(order[:number])


def _with_keys(reader: TarReader, keys: list[str]) -> list[int]:
    numbers = [n for n in range(len(reader)) if reader.name(n)[1] in keys]
    if not numbers:
        raise ShardError(f"no sample has the key {', '.join(keys)}")
    return numbers
