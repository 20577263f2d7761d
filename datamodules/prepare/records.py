"""Captioned images, whichever data set they come from, as samples: the caption is cut, the image's bytes are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.granularity.cutting import cut_phrases, split_sentences
from datamodules.granularity.extractors import Extractor
from datamodules.prepare.boxes import from_pixels, usable_boxes
from datamodules.prepare.images import check_image, read_image, require_images, sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import Rejected, Rejects
from datamodules.prepare.shard_jobs import Manifest, in_units, write_units
from datamodules.prepare.text_cleaning import as_sentence, mended, tidy, without_repeats
from datamodules.sample import Box, Region, Sample


class RecordBox(NamedTuple):
    """A box ``(x0, y0, x1, y1)`` in pixels of the image, and what it shows."""

    corners: Box
    label: str | None


class ImageRecord(NamedTuple):
    """One image with its texts and boxes in a data set. ``image`` is its file; ``name`` is for reports.

    ``caption`` is a text, which is cut into sentences, or several captions, each of which is one.
    """

    key: str
    name: str
    image: Path
    caption: str | Sequence[str]
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
    rejects: Rejects | None = None,
) -> Manifest | None:
    """Write shards of the records that ``records`` gives; see ``write_units``.

    Unless ``skip_missing`` is set, ``records`` is called and read once more before any work, to check that the images
    exist; ``listed_in`` is the file or folder that lists them.

    Raises:
        LookupError, ImportError: what the job's extractor needs is missing.
        FileNotFoundError: an image is missing.
        ValueError: no sample was left to write.
    """
    job.text_extractor.require()
    if not skip_missing:
        require_images((record.image for record in records()), listed_in)
    units = in_units(records(), job.samples_per_shard)
    to_samples = partial(samples_of, source=source, job=job)
    return write_units(units, to_samples, job, source=source, settings=settings, rejects=rejects)


def samples_of(records: list[ImageRecord], rejects: Rejects, *, source: str, job: PrepareJob) -> Iterator[Sample]:
    """The samples of a shard's records. Records that give no sample are counted."""
    for record in records:
        try:
            yield to_sample(record, read_image(record.image), rejects, source=source, job=job)
        except Rejected as error:
            rejects.add(error.reason, record.name)


def to_sample(record: ImageRecord, data: bytes, rejects: Rejects, *, source: str, job: PrepareJob) -> Sample:
    """The sample of a record and its encoded image ``data``. Raises ``Rejected``."""
    extractor = job.text_extractor
    caption, sentences = cut_caption(record.caption, extractor)
    if not sentences:
        raise Rejected("no caption")
    image = check_image(data)
    if not isinstance(record.caption, str):
        for _ in range(len(record.caption) - len(sentences)):
            rejects.add("caption without words", record.name)
    summary = tidy(record.summary) if record.summary else ""
    boxes = usable_boxes(
        record.boxes, lambda box: from_pixels(box.corners, image.width, image.height), rejects, lambda _: record.name
    )
    regions = dict.fromkeys(Region(corners, None, box.label) for box, corners in boxes)
    image = job.shrink(image)
    phrases, stop_phrases = cut_phrases(caption, sentences, extractor)
    return Sample(
        key=record.key,
        image=image.data,
        caption=caption,
        sentences=tuple(sentences),
        phrases=phrases,
        stop_phrases=stop_phrases,
        regions=tuple(regions),
        summary=summary or None,
        source=source,
        extension=image.extension,
    )


def cut_caption(caption: str | Sequence[str], extractor: Extractor) -> tuple[str, list[str]]:
    """The caption on one line, and its sentences; captions without words are left out."""
    if not isinstance(caption, str):
        sentences = [sentence for text in caption if (sentence := as_sentence(text))]
        return " ".join(sentences), sentences
    text = without_repeats(mended(caption))
    sentences = [" ".join(s.split()) for s in split_sentences(text, extractor)]  # line breaks end some of them
    return " ".join(text.split()), sentences


def path_key(path: str) -> str:
    """An image's path within its data set, without extension, as a key."""
    return sample_key(str(Path(path).with_suffix("")))
