"""Groups the members of a tar into samples by their names; only headers are read.

A member is called KEY.PART. WebDataset's rule, that the key ends at the first dot, holds where what follows is a part
in ``parts``. Elsewhere the key ends at the last dot, so that ``IMG_1.2.jpg`` and ``IMG_1.2.json`` are a sample.
``a.seg.png`` beside the sample ``a`` is no sample: it belongs to ``a``, as for WebDataset, unless there is an
``a.seg.json`` too. Members of no sample are strays, and counted; files that macOS adds (``._a.jpg``) are among them.

Members of one sample need not stand together; a name that comes a second time begins another sample.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection, Iterator
from typing import IO, NamedTuple

from datamodules.sample import IMAGE_EXTENSIONS

IMAGE = "image"
_BLOCK = 512  # a header's bytes
_PADDING = 1 << 16  # bytes behind the end that must be empty; tar pads to 10,240
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


class Entry:
    """A sample's members: first byte and length of each part, and which extension its image has."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.spans: dict[str, tuple[int, int]] = {}
        self.extension = IMAGE_EXTENSIONS[0]
        self.offset = -1  # of its first member

    def add(self, part: str, extension: str, offset: int, length: int) -> None:
        """Add a member."""
        self.spans[part] = (offset, length)
        self.offset = offset if self.offset < 0 else min(self.offset, offset)
        if part == IMAGE:
            self.extension = extension

    def has(self, core: Collection[str]) -> bool:
        """True if it holds one of the parts ``core``."""
        return any(part in self.spans for part in core)


class TarContents(NamedTuple):
    """Samples in the order of their first members, and names of members that belong to none.

    ``problem`` says what is wrong with the tar, "" where it is whole.
    """

    entries: list[Entry]
    strays: list[str]
    problem: str


def group_members(file: IO[bytes], parts: Collection[str], core: Collection[str]) -> TarContents:
    """Group the members of an open tar; their data is not read.

    Args:
        file: a tar that is not compressed.
        parts: the extensions of the members to group, in lower case; an image has any of ``IMAGE_EXTENSIONS``.
        core: a sample holds one of these at least, of ``parts`` or ``IMAGE``.
    """
    first_dot_entries: dict[str, list[Entry]] = {}
    last_dot_entries: dict[str, list[Entry]] = {}  # candidates whose key ends at the last dot
    other_names: list[str] = []  # members of no known part whose sample has not begun
    problem = ""
    try:
        for name, offset, length in _members(file):
            folder, slash, base = name.rpartition("/")
            stem, _, suffix = base.partition(".")
            last_stem, _, extension = base.rpartition(".")
            key = folder + slash + stem
            if stem and (part := _part(suffix, parts)):
                _add(first_dot_entries, key, part, suffix.lower(), offset, length)
            elif last_stem and not base.startswith("._") and (part := _part(extension, parts)):
                _add(last_dot_entries, folder + slash + last_stem, part, extension.lower(), offset, length)
            elif key not in first_dot_entries:
                other_names.append(name)
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError) as error:
        problem = str(error) or repr(error)
    samples = {key for key, entries in first_dot_entries.items() if any(entry.has(core) for entry in entries)}
    whole_entries, strays = [], []
    for key, entries in (*first_dot_entries.items(), *last_dot_entries.items()):
        first = _first_dot(key)
        for entry in entries:
            beside = key in last_dot_entries and first in samples  # WebDataset: a part of that sample, with an odd name
            if entry.has(core) and (not beside or all(part in entry.spans for part in core)):
                whole_entries.append(entry)
            elif not beside:
                strays += [f"{key}.{part}" for part in entry.spans]
    samples |= {entry.key for entry in whole_entries}
    strays += [name for name in other_names if not {_first_dot(name), name.rpartition(".")[0]} & samples]
    return TarContents(sorted(whole_entries, key=lambda entry: entry.offset), strays, problem)


def _add(entries: dict[str, list[Entry]], key: str, part: str, extension: str, offset: int, length: int) -> None:
    entries_of_key = entries.setdefault(key, [Entry(key)])
    if part in entries_of_key[-1].spans:
        entries_of_key.append(Entry(key))
    entries_of_key[-1].add(part, extension, offset, length)


def _part(extension: str, parts: Collection[str]) -> str:
    """The part of a sample that a member with this extension holds; "" for none."""
    extension = extension.lower()
    return IMAGE if extension in IMAGE_EXTENSIONS else extension if extension in parts else ""


def _first_dot(key: str) -> str:
    folder, slash, base = key.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _members(file: IO[bytes]) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and length of each file in the tar."""
    size, previous_offset = os.fstat(file.fileno()).st_size, -1
    file.seek(0)
    head = file.read(_BLOCK)
    if form := _COMPRESSED.get(head[:2]):
        raise ValueError(f"it is compressed with {form}; decompress it first")
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
        while any(head) and (member := tar.next()) is not None:  # Python 3.10 fails at a tar without members
            vars(tar)["members"].clear()  # a shard of a million members would keep them all
            if member.size < 0 or member.offset_data <= previous_offset:
                raise ValueError(f"a header points backwards, behind byte {previous_offset}")
            if member.offset_data + member.size > size:
                raise ValueError(f"cut: {member.name} needs bytes up to {member.offset_data + member.size} of {size}")
            previous_offset = member.offset_data
            if member.isreg() and not member.issparse():
                yield member.name, member.offset_data, member.size
        file.seek(tar.offset)
        end = file.read(_BLOCK)
        if any(end):
            raise ValueError(f"what stands at byte {tar.offset} is no tar header")
        if len(end) < _BLOCK:
            raise ValueError(f"cut: it ends at byte {size} without the empty block that ends a tar")
        if any(file.read(_PADDING)):
            raise ValueError(f"more stands behind its end at byte {tar.offset}; were tars put together with cat?")
