"""A source of one's own: a folder of images, each with a note in a ``.txt`` file beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, write_records
from datamodules.prepare.shard_jobs import Manifest


def prepare_notes(images: Path, job: PrepareJob) -> Manifest | None:
    """Write shards from images and the notes beside them.

    Args:
        images: the folder of ``NAME.jpg`` and ``NAME.txt``.
        job: where to, and how.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        FileNotFoundError: an image has no note.
        ValueError: no image was left to write.
    """

    def records() -> Iterator[ImageRecord]:
        for picture in sorted(images.glob("*.jpg")):
            yield ImageRecord(
                picture.stem, picture.name, picture, picture.with_suffix(".txt").read_text(encoding="utf-8")
            )

    return write_records(records, job, source="notes", settings={}, listed_in=images, skip_missing=False)
