"""Read what img2dataset writes: pictures with a JSON each, in tars or in folders, one at a time.

A tar is read as a stream, from front to back; of a folder one sub-folder is listed at a time. So a set of any size
needs the memory of one image.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from datamodules.sample import IMAGE_EXTENSIONS
from datamodules.shards import ShardError, find_shards

_STATISTICS = "_stats.json"  # img2dataset's own, beside the pictures


class Item(NamedTuple):
    """A picture and its JSON, None where it is missing; ``place`` is for messages."""

    key: str
    place: str
    image: bytes | None
    json: bytes | None


class Items:
    """The items of ``data``: a tar, a folder of tars or of files, a glob or braces of tars.

    Raises:
        ShardError: there is nothing to read, or a tar is damaged.
    """

    def __init__(self, data: str) -> None:
        folder = Path(data).expanduser()
        self._folder = folder if folder.is_dir() and not any(folder.glob("*.tar")) else None
        self._shards = find_shards(data) if self._folder is None else []
        if self._folder is not None and next(iter(self), None) is None:
            raise ShardError(f"the folder {data} holds neither tars nor pictures with a JSON each")

    def __length_hint__(self) -> int:
        return sum(shard.samples or 0 for shard in self._shards)

    def __iter__(self) -> Iterator[Item]:
        return _in_tars([shard.url for shard in self._shards]) if self._folder is None else _in_folder(self._folder)


def _in_tars(urls: list[str]) -> Iterator[Item]:
    for url in urls:
        try:
            with tarfile.open(url, "r|") as tar:
                for path, parts in groupby(_members(tar), key=lambda member: member[0]):
                    data = {part: content for _, part, content in parts}
                    yield Item(path.rpartition("/")[2], f"{url}, {path}.json", data.get("image"), data.get("json"))
        except (tarfile.TarError, OSError) as error:
            raise ShardError(f"the tar {url} cannot be read on: {error}; copy it again or leave it out") from error


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Path without extension, part and content of the members that count."""
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        part, file = _part(extension), tar.extractfile(member)
        if part is not None and file is not None:
            yield f"{folder}/{stem}".removeprefix("/"), part, file.read()


def _in_folder(folder: Path) -> Iterator[Item]:
    files: dict[str, dict[str, Path]] = {}
    inner = []
    for path in sorted(folder.iterdir()):
        stem, _, extension = path.name.partition(".")
        part = _part(extension)
        if path.is_dir():
            inner.append(path)
        elif part is not None and not path.name.endswith(_STATISTICS):
            files.setdefault(stem, {})[part] = path
    for key, parts in files.items():
        data = {part: path.read_bytes() for part, path in parts.items()}
        yield Item(key, str(folder / f"{key}.json"), data.get("image"), data.get("json"))
    for path in inner:
        yield from _in_folder(path)


def _part(extension: str) -> str | None:
    """Which part of an item a file with this extension is; None for none, as the captions in .txt."""
    extension = extension.lower()
    return "image" if extension in IMAGE_EXTENSIONS else "json" if extension == "json" else None
