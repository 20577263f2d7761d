"""Byte offsets of each sample in a tar: found by one walk over the headers, stored in a small file beside the shard.

With it a sample is read by its number with one or two system calls, in any order and by any number of readers at once.
The file has the shard's name with ``.idx`` behind it and holds plain arrays. It also has the shard's size and a
checksum of some of its headers, so an index that belongs to an older shard is not used.

``datamodules.shards.tar_members`` says which members make up a sample, and which are strays.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int, UInt8

from datamodules.atomic_write import atomic_write, named_disk_errors
from datamodules.sample import IMAGE_EXTENSIONS, SampleError
from datamodules.shards.tar_members import IMAGE, Entry, group_members

SUFFIX = ".idx"
LAYOUT = 2  # of the index file
PARTS = (IMAGE, "json", "tokens")
CORE = (IMAGE, "json")  # a sample has at least one of these
MOST_BYTES = {"image": 1 << 28, "json": 1 << 24, "tokens": 1 << 24}  # larger members are refused as an attack
_BLOCK = 512  # a header's bytes
_PROBES = 8  # samples whose headers are compared to check that an index belongs to the tar


class TarError(ValueError):
    """A tar is damaged; the message says where. ``index`` holds the samples before the damage."""

    def __init__(self, message: str, index: TarIndex) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, eq=False)
class TarIndex:
    """The samples of one tar: first byte and length of each part ((-1, 0) where there is none), keys end to end.

    ``strays`` members belong to no sample; ``stray`` is the name of one.
    """

    spans: Int[np.ndarray, "N 3 2"]
    kinds: UInt8[np.ndarray, " N"]  # index into IMAGE_EXTENSIONS
    names: UInt8[np.ndarray, " C"]
    ends: Int[np.ndarray, " N"]
    strays: int = 0
    stray: str = ""

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def images(self) -> int:
        """The number of samples that have an image."""
        return int((self.spans[:, 0, 0] >= 0).sum())

    def key(self, number: int) -> str:
        """The key of sample ``number``."""
        start = int(self.ends[number - 1]) if number else 0
        return self.names[start : int(self.ends[number])].tobytes().decode()

    def read(self, file: int, number: int, parts: Sequence[str] = PARTS) -> dict[str, Any]:
        """The members of sample ``number`` from an open file: ``{"__key__", "jpg" | ..., "json", "tokens"}``, of
        ``parts`` alone.

        Raises ``SampleError``: reason ``shard`` where the file ends too early or fails, ``size`` where a member is
        absurdly large.
        """
        members: dict[str, Any] = {"__key__": self.key(number)}
        for part, (offset, size) in zip(PARTS, self.spans[number].tolist(), strict=True):
            if offset < 0 or part not in parts:
                continue
            if size > MOST_BYTES[part]:
                raise SampleError("size", f"the {part} has {size} bytes; at most {MOST_BYTES[part]} are read")
            name = IMAGE_EXTENSIONS[self.kinds[number]] if part == "image" else part
            members[name] = _read(file, offset, size)
        return members


def _read(file: int, offset: int, size: int) -> bytes:
    try:
        data = os.pread(file, size, offset)
        while len(data) < size and (chunk := os.pread(file, size - len(data), offset + len(data))):
            data += chunk
    except OSError as error:
        raise SampleError("shard", f"the shard cannot be read: {error}") from error
    if len(data) < size:
        raise SampleError("shard", f"the shard ends within the sample: {len(data)} of {size} bytes")
    return data


def scan(file: IO[bytes]) -> TarIndex:
    """Walk the headers of an open tar; members' data is not read.

    Raises ``TarError`` where it is no tar, is cut, or holds something else behind its last whole member.
    """
    entries, strays, problem = group_members(file, PARTS[1:], CORE)
    index = _pack_index(entries, strays)
    if problem:
        raise TarError(problem, index)
    return index


def _pack_index(entries: list[Entry], strays: list[str]) -> TarIndex:
    spans = [[entry.spans.get(part, (-1, 0)) for part in PARTS] for entry in entries]
    names = [entry.key.encode("utf-8", "backslashreplace") for entry in entries]
    return TarIndex(
        spans=np.array(spans, dtype=np.int64).reshape(-1, len(PARTS), 2),
        kinds=np.array([IMAGE_EXTENSIONS.index(entry.extension) for entry in entries], dtype=np.uint8),
        names=np.frombuffer(b"".join(names), dtype=np.uint8),
        ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        strays=len(strays),
        stray=strays[0] if strays else "",
    )


def index_path(tar: Path) -> Path:
    """The path of the index of ``tar``."""
    return tar.with_name(tar.name + SUFFIX)


def write_index(tar: Path) -> TarIndex:
    """Index a tar and store the index beside it, atomically. Raises ``TarError`` as ``scan``."""
    with tar.open("rb") as file:
        index = scan(file)
        stamp = _stamp(file, index)
    path = index_path(tar)
    with named_disk_errors(path), atomic_write(path) as draft, draft.open("wb") as out:
        np.savez(
            out, layout=np.int64(LAYOUT), stamp=stamp,
            spans=index.spans, kinds=index.kinds, names=index.names, ends=index.ends,
            strays=np.int64(index.strays), stray=np.str_(index.stray),
        )  # fmt: skip
    return index


def load_index(tar: Path) -> TarIndex:
    """The index stored beside ``tar``, or a new one where there is none that fits. Raises ``TarError`` as ``scan``."""
    index = stored_index(tar)
    if index is not None:
        return index
    with tar.open("rb") as file:
        return scan(file)


def stored_index(tar: Path) -> TarIndex | None:
    """The index stored beside ``tar``; None where there is none, or it is not this tar's."""
    try:
        with ExitStack() as stack:
            raw, file = (stack.enter_context(path.open("rb")) for path in (index_path(tar), tar))
            arrays_file = stack.enter_context(np.load(raw, allow_pickle=False))
            if int(arrays_file["layout"]) != LAYOUT:
                return None
            arrays = (arrays_file[name] for name in ("spans", "kinds", "names", "ends"))
            index = TarIndex(*arrays, strays=int(arrays_file["strays"]), stray=str(arrays_file["stray"]))
            shapes_fit = index.spans.shape == (len(index.kinds), len(PARTS), 2)
            return index if shapes_fit and np.array_equal(arrays_file["stamp"], _stamp(file, index)) else None
    except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile):
        return None


def _stamp(file: IO[bytes], index: TarIndex) -> UInt8[np.ndarray, " 24"]:
    """The tar's size, and a checksum over the headers of some members that ``index`` knows."""
    size = os.fstat(file.fileno()).st_size
    digest = hashlib.blake2b(digest_size=16)
    probes = np.unique(np.linspace(0, len(index) - 1, _PROBES).astype(int)) if len(index) else []
    for offset in index.spans[probes, :, 0].flatten() if len(index) else []:
        digest.update(os.pread(file.fileno(), _BLOCK, max(int(offset) - _BLOCK, 0)))
    return np.frombuffer(size.to_bytes(8, "little") + digest.digest(), dtype=np.uint8)
