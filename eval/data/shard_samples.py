"""The images and texts of shards, for embedding them: headers are read once, images when they are needed.

Reads any WebDataset tar with our schema (``datamodules.sample``); local files only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.sample import IMAGE_EXTENSIONS, Sample, SampleError
from datamodules.shards.discovery import Shard
from datamodules.shards.tar_index import PARTS, TarIndex
from eval.data.sources import TarMember


class ShardSample(NamedTuple):
    """A sample of a shard: the location of its image, and the rest of the sample (``sample.image`` is empty)."""

    image: TarMember
    sample: Sample


def read_shard_samples(shards: list[Shard]) -> Iterator[ShardSample]:
    """All samples, in the shards' order.

    An image's name is its shard's, then its key. Shards of several folders that are called alike are told apart by as
    many of their folders as it takes: ``one/shard-000000/000000001``.

    Raises ValueError, naming shard and key, for a sample that breaks the schema, and for a shard that is damaged or not
    a local file.
    """
    if remote := [shard.url for shard in shards if shard.samples is None]:
        raise ValueError(f"--shards must be files of this machine, got {remote[0]}")
    names = _names([Path(shard.url) for shard in shards])
    for shard, name in zip(shards, names, strict=True):
        path, index = Path(shard.url), shard.index()
        with path.open("rb") as file:
            for number in range(len(index)):
                yield _read_sample(path, name, index, number, file.fileno())


def _names(paths: Sequence[Path]) -> list[str]:
    """The paths' last parts without their endings, behind as many parents as make them differ.

    Raises:
        ValueError: where two paths differ in their endings alone, or are of one file.
    """
    whole = [Path(os.path.abspath(path)).with_suffix("").parts for path in paths]
    if twice := [path for path, parts in zip(paths, whole, strict=True) if whole.count(parts) > 1]:
        raise ValueError(f"--shards must name each shard once, got {twice[0]} and {twice[1]}")
    depths = [1] * len(whole)
    names = [parts[-1] for parts in whole]
    while repeated := {name for name, count in Counter(names).items() if count > 1}:
        depths = [depth + (name in repeated) for depth, name in zip(depths, names, strict=True)]
        names = ["/".join(parts[-depth:]) for depth, parts in zip(depths, whole, strict=True)]
    return names


def _read_sample(path: Path, name: str, index: TarIndex, number: int, file: int) -> ShardSample:
    try:
        members = index.read(file, number, PARTS[1:])
        key, extension = members["__key__"], IMAGE_EXTENSIONS[index.kinds[number]]
        (offset, size), *_ = index.spans[number].tolist()
        sample = Sample.from_members(members | ({extension: b""} if offset >= 0 else {}))
    except SampleError as error:
        raise ValueError(f"{path}, sample {index.key(number)!r}: {error}") from error
    return ShardSample(TarMember(path, f"{name}/{key}", offset, size), sample)
