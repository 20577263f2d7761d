"""The pictures and texts of shards, for embedding them: headers are walked once, pictures are read when needed.

Any WebDataset tar with our schema (``datamodules.sample``); only files of this machine.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.sample import IMAGE_EXTENSIONS, Sample, SampleError
from datamodules.shards import Shard
from eval.sources import TarMember


class Stored(NamedTuple):
    """A sample of a shard: where its picture is, and all else (``sample.image`` is empty)."""

    picture: TarMember
    sample: Sample


def stored(shards: list[Shard]) -> Iterator[Stored]:
    """All samples, in the shards' order.

    Raises ValueError, naming shard and key, for a sample that breaks the schema, and for a shard that is no local file.
    """
    for shard in shards:
        if shard.samples is None:
            raise ValueError(f"--shards must be files of this machine, got {shard.url}")
        path = Path(shard.url)
        members: dict[str, Any] = {}
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if not info.isfile():
                    continue
                folder, _, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if members and members["__key__"] != key:
                    yield _whole(path, members)
                    members = {}
                members["__key__"] = key
                if extension in IMAGE_EXTENSIONS:
                    members[extension] = TarMember(path, f"{path.stem}/{key}", info.offset_data, info.size)
                elif extension == "json" and (file := tar.extractfile(info)) is not None:
                    members["json"] = file.read()
        if members:
            yield _whole(path, members)


def _whole(path: Path, members: dict[str, Any]) -> Stored:
    key = members["__key__"]
    picture = next((one for one in members.values() if isinstance(one, TarMember)), None)
    plain = {name: b"" if isinstance(one, TarMember) else one for name, one in members.items()}
    try:
        sample = Sample.from_members(plain)
    except SampleError as error:
        raise ValueError(f"{path}, sample {key!r}: {error}") from error
    assert picture is not None  # Sample.from_members would have refused
    return Stored(picture, sample)
