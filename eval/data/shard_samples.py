"""The images and texts of shards, for embedding them: headers are read once, images when they are needed.

Reads any WebDataset tar with our schema (``datamodules.sample``); local files only.
"""

from __future__ import annotations

from collections.abc import Iterator
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

    Raises ValueError, naming shard and key, for a sample that breaks the schema, and for a shard that is damaged or not
    a local file.
    """
    for shard in shards:
        if shard.samples is None:
            raise ValueError(f"--shards must be files of this machine, got {shard.url}")
        path, index = Path(shard.url), shard.index()
        with path.open("rb") as file:
            for number in range(len(index)):
                yield _read_sample(path, index, number, file.fileno())


def _read_sample(path: Path, index: TarIndex, number: int, file: int) -> ShardSample:
    try:
        members = index.read(file, number, PARTS[1:])
        key, extension = members["__key__"], IMAGE_EXTENSIONS[index.kinds[number]]
        (offset, size), *_ = index.spans[number].tolist()
        sample = Sample.from_members(members | ({extension: b""} if offset >= 0 else {}))
    except SampleError as error:
        raise ValueError(f"{path}, sample {index.key(number)!r}: {error}") from error
    return ShardSample(TarMember(path, f"{path.stem}/{key}", offset, size), sample)
