"""Read the samples of a user's tar: headers first, so that a damaged tar is refused before any sample is made."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from datamodules.prepare.rejected import Rejects
from datamodules.shards.discovery import ShardError
from datamodules.shards.tar_members import IMAGE, group_members


def read_members(path: str, parts: Collection[str], rejects: Rejects) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The key of each sample, and its content by part: ``IMAGE`` and those of ``parts`` that it has.

    Members that belong to no sample are counted in ``rejects``.

    Raises:
        ShardError: the tar is cut, damaged, compressed or none.
    """
    try:
        with Path(path).open("rb") as file:
            entries, strays, problem = group_members(file, parts, (IMAGE, *parts))
            if problem:
                raise _refusal(path, problem)
            for name in strays:
                rejects.add("member of no sample", f"{path}, {name}")
            for entry in entries:
                content = {part: _content(file, *span) for part, span in entry.spans.items()}
                if any(len(content[part]) < length for part, (_, length) in entry.spans.items()):
                    raise _refusal(path, f"it ends within {entry.key}")
                yield entry.key, content
    except OSError as error:
        raise ShardError(f"the tar {path} cannot be read: {error.strerror or error}") from error


def _refusal(path: str, problem: str) -> ShardError:
    return ShardError(f"the tar {path} cannot be read on: {problem}; copy it again or leave it out")


def _content(file: IO[bytes], offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
