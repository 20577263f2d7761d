"""An image file with a caption, whichever data set it comes from, as a sample: grains cut, image taken as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.granularity.cutting import cut_phrases, split_sentences
from datamodules.prepare.boxes import from_pixels
from datamodules.prepare.images import Picture, look_into, read_picture, require_pictures, sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import LeftOut, Rejects
from datamodules.prepare.shard_jobs import Manifest, in_units, write_units
from datamodules.prepare.text_cleaning import mended, tidy, without_repeats
from datamodules.sample import Region, Sample


class RecordBox(NamedTuple):
    """A box ``(x0, y0, x1, y1)`` in pixels of the image, and what it shows."""

    corners: tuple[float, float, float, float]
    label: str | None


class ImageRecord(NamedTuple):
    """One image with its texts and boxes in a data set. ``image`` is its file; ``name`` is for reports."""

    key: str
    name: str
    image: Path
    caption: str
    summary: str | None = None
    boxes: Sequence[RecordBox] = ()


def write_records(
    records: Callable[[], Iterable[ImageRecord]],
    job: PrepareJob,
    *,
    source: str,
    settings: dict[str, Any],
    listed_in: Path,
    skip_missing: bool,
) -> Manifest | None:
    """Shards of what ``records`` gives; see ``write_units``.

    Unless ``skip_missing``, all are read before any work to see that their images are there; ``listed_in`` names them.

    Raises:
        LookupError, ImportError: what the job's extractor needs is missing.
        FileNotFoundError: an image is missing.
        ValueError: no sample was left to write.
    """
    job.finder.require()
    if not skip_missing:
        require_pictures((record.image for record in records()), listed_in)
    units = in_units(records(), job.samples_per_shard)
    return write_units(units, partial(samples_of, source=source, job=job), job, source=source, settings=settings)


def samples_of(records: list[ImageRecord], rejects: Rejects, *, source: str, job: PrepareJob) -> Iterator[Sample]:
    """The samples of a shard's records. What cannot be one is counted."""
    for record in records:
        try:
            yield to_sample(record, read_picture(record.image), rejects, source=source, job=job)
        except LeftOut as left:
            rejects.add(left.reason, record.name)


def to_sample(record: ImageRecord, image: bytes, rejects: Rejects, *, source: str, job: PrepareJob) -> Sample:
    """The sample of a record and its encoded picture. Raises ``LeftOut``."""
    text = without_repeats(mended(record.caption))
    sentences = [" ".join(s.split()) for s in split_sentences(text, job.finder)]  # where lines end is still known
    caption = " ".join(text.split())
    if not sentences:
        raise LeftOut("no caption")
    picture = look_into(image)
    summary = tidy(record.summary) if record.summary else ""
    regions = dict.fromkeys(_regions(record, picture, rejects))
    picture = job.fitted(picture)
    found = cut_phrases(caption, sentences, job.finder)
    return Sample(
        key=record.key,
        image=picture.data,
        caption=caption,
        sentences=tuple(sentences),
        phrases=found.phrases,
        stop_phrases=found.stop_phrases,
        regions=tuple(regions),
        summary=summary or None,
        source=source,
        extension=picture.extension,
    )


def path_key(path: str) -> str:
    """An image's path within its data set, without extension, as a key."""
    return sample_key(str(Path(path).with_suffix("")))


def _regions(record: ImageRecord, picture: Picture, rejects: Rejects) -> Iterator[Region]:
    for box in record.boxes:
        try:
            yield Region(from_pixels(box.corners, picture.width, picture.height), None, box.label)
        except LeftOut as left:
            rejects.add(left.reason, record.name)
