"""Read what img2dataset writes: images with a JSON each, in tars or in folders, one at a time.

A tar is read from front to back, and becomes one shard; of a folder's files only the names are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from datamodules.formats.layout import described
from datamodules.prepare.rejected import Rejects
from datamodules.prepare.shard_jobs import in_units
from datamodules.prepare.tar_reader import read_members
from datamodules.sample import IMAGE_EXTENSIONS
from datamodules.shards.discovery import ShardError, expand_shards, is_remote
from datamodules.shards.tar_members import IMAGE

_STATISTICS = "_stats.json"  # img2dataset's own, beside the images


class GritItem(NamedTuple):
    """An image and its JSON, None where it is missing; ``place`` is for messages."""

    key: str
    place: str
    image: bytes | None
    json: bytes | None


class Work(Protocol):
    """Items that go into one shard."""

    def items(self, rejects: Rejects) -> Iterator[GritItem]:
        """One at a time. Raises ``ShardError`` where a tar is damaged."""
        ...


class Tar(NamedTuple):
    """All items of a tar."""

    url: str

    def items(self, rejects: Rejects) -> Iterator[GritItem]:
        """Read one after the other; members of no item are counted."""
        return _in_tar(self.url, rejects)


class Files(NamedTuple):
    """Some items of a folder: their paths without extension, and the paths of image and JSON."""

    stems: Sequence[tuple[Path, Mapping[str, Path]]]

    def items(self, rejects: Rejects) -> Iterator[GritItem]:
        """Read one after the other."""
        del rejects
        for stem, parts in self.stems:
            data = {part: path.read_bytes() for part, path in parts.items()}
            yield GritItem(stem.name, f"{stem}.json", data.get("image"), data.get("json"))


def find_works(data: str, samples: int) -> tuple[Iterator[Work], list[str]]:
    """The shards to make of ``data``, and what it is in words.

    Args:
        data: a tar, a folder of tars or of files, a glob or braces of tars.
        samples: how many items of a folder's files go into a shard.

    Raises:
        ShardError: there is nothing to read.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir() or any(folder.glob("*.tar")):
        urls = expand_shards(data)
        if remote := [url for url in urls if is_remote(url)]:
            raise ShardError(f"only local tars can be prepared, got {remote[0]}")
        return map(Tar, urls), [described(Path(url)) for url in urls]
    if next(_in_folder(folder), None) is None:
        raise ShardError(f"the folder {data} holds neither tars nor images with a JSON each")
    return (Files(unit.work) for unit in in_units(_in_folder(folder), samples)), [folder.name]


def _in_tar(url: str, rejects: Rejects) -> Iterator[GritItem]:
    for key, data in read_members(url, ("json",), rejects):
        yield GritItem(key.rpartition("/")[2], f"{url}, {key}.json", data.get(IMAGE), data.get("json"))


def _in_folder(folder: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    files: dict[Path, dict[str, Path]] = {}
    inner = []
    for path in sorted(folder.iterdir()):
        stem, _, extension = path.name.rpartition(".")
        part = _part(extension)
        if path.is_dir():
            inner.append(path)
        elif part is not None and not path.name.endswith(_STATISTICS):
            files.setdefault(folder / stem, {})[part] = path
    yield from files.items()
    for path in inner:
        yield from _in_folder(path)


def _part(extension: str) -> str | None:
    """The part of an item that a file with this extension holds; None for none, as the captions in .txt."""
    extension = extension.lower()
    return "image" if extension in IMAGE_EXTENSIONS else "json" if extension == "json" else None
