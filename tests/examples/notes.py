"""A source of one's own: a folder of pictures, each with a note in a ``.txt`` file beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.extractors import RuleExtractor
from datamodules.prepare.records import Record, write_records
from datamodules.prepare.units import Scale


def prepare_notes(images: Path, out: Path, scale: Scale = Scale()) -> dict[str, Any] | None:
    """Write shards from pictures and the notes beside them.

    Args:
        images: the folder of ``NAME.jpg`` and ``NAME.txt``.
        out: the folder to write to.
        scale: processes, part of a job array, images of a shard.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        FileNotFoundError: a picture has no note.
        ValueError: no image was left to write.
    """

    def records() -> Iterator[Record]:
        for picture in sorted(images.glob("*.jpg")):
            yield Record(picture.stem, picture.name, picture, picture.with_suffix(".txt").read_text(encoding="utf-8"))

    by = RuleExtractor()  # sentences and phrases by rules, which need no data
    return write_records(records(), out, source="notes", settings={}, max_side=None, scale=scale, extractor=by)
