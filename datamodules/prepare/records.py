"""An image file with a caption, whichever data set it comes from, as a sample: grains cut, picture taken as it is."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from datamodules.extractors import Extractor
from datamodules.granularity import extract_phrases, split_sentences
from datamodules.prepare.boxes import from_pixels
from datamodules.prepare.pictures import Picture, look_into, read_picture, sample_key
from datamodules.prepare.rejects import LeftOut, Rejects
from datamodules.prepare.text import mended, tidy, without_repeats
from datamodules.prepare.units import Scale, Unit, in_units, write_units
from datamodules.sample import Region, Sample

JPEG_QUALITY = 92


class Drawn(NamedTuple):
    """A box ``(x0, y0, x1, y1)`` in pixels of the picture, and what it shows."""

    corners: tuple[float, float, float, float]
    label: str | None


class Record(NamedTuple):
    """What a data set says about one image. ``image`` is its file; ``name`` is for reports."""

    key: str
    name: str
    image: Path
    caption: str
    summary: str | None = None
    boxes: Sequence[Drawn] = ()


def write_records(
    records: Iterable[Record],
    out: Path,
    *,
    source: str,
    settings: dict[str, Any],
    max_side: int | None,
    scale: Scale,
    extractor: Extractor,
) -> dict[str, Any] | None:
    """Shards of ``records``; see ``write_units``.

    ``max_side``: pictures with a longer side are made smaller and encoded anew; None keeps every file's own bytes.

    Raises:
        LookupError, ImportError: what the ``extractor`` needs is missing.
        ValueError: ``max_side`` is below 32, or no sample was left to write.
    """
    if max_side is not None and max_side < 32:
        raise ValueError(f"max_side must be at least 32 pixels, got {max_side}")
    extractor.require()
    to_samples = partial(samples_of, source=source, max_side=max_side, extractor=extractor)
    settings = {**settings, "max_side": max_side, "extractor": extractor}
    units: Iterator[Unit] = in_units(records, scale.samples_per_shard)
    return write_units(units, to_samples, out, source=source, settings=settings, scale=scale)


def samples_of(
    records: list[Record], rejects: Rejects, *, source: str, max_side: int | None, extractor: Extractor
) -> Iterator[Sample]:
    """The samples of a shard's records. What cannot be one is counted; a key that comes again gets a number behind."""
    keys: dict[str, int] = {}
    for record in records:
        try:
            image = read_picture(record.image)
            sample = to_sample(record, image, rejects, source=source, max_side=max_side, extractor=extractor)
        except LeftOut as left:
            rejects.add(left.reason, record.name)
            continue
        again = keys.setdefault(record.key, 0)
        keys[record.key] += 1
        yield sample if not again else _renamed(sample, f"{record.key}-{again}")


def to_sample(
    record: Record, image: bytes, rejects: Rejects, *, source: str, max_side: int | None, extractor: Extractor
) -> Sample:
    """The sample of a record and its encoded picture. Raises ``LeftOut``."""
    text = without_repeats(mended(record.caption))
    sentences = [" ".join(s.split()) for s in split_sentences(text, extractor)]  # where lines end is still known
    caption = " ".join(text.split())
    if not sentences:
        raise LeftOut("no caption")
    picture = look_into(image)
    summary = tidy(record.summary) if record.summary else ""
    regions = dict.fromkeys(_regions(record, picture, rejects))
    picture = picture if max_side is None else _at_most(picture, max_side)
    return Sample(
        key=record.key,
        image=picture.data,
        caption=caption,
        sentences=tuple(sentences),
        phrases=tuple(extract_phrases(caption, sentences, extractor)),
        regions=tuple(regions),
        summary=summary or None,
        source=source,
        extension=picture.extension,
    )


def path_key(path: str) -> str:
    """An image's path within its data set, without extension, as a key."""
    return sample_key(str(Path(path).with_suffix("")))


def _renamed(sample: Sample, key: str) -> Sample:
    return Sample(**{**vars(sample), "key": key})


def _regions(record: Record, picture: Picture, rejects: Rejects) -> Iterator[Region]:
    for box in record.boxes:
        try:
            yield Region(from_pixels(box.corners, picture.width, picture.height), None, box.label)
        except LeftOut as left:
            rejects.add(left.reason, record.name)


def _at_most(picture: Picture, side: int) -> Picture:
    """The picture with its longer side at most ``side`` pixels, as JPEG; untouched where it is small enough."""
    if max(picture.width, picture.height) <= side:
        return picture
    share = side / max(picture.width, picture.height)
    size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    try:
        with Image.open(io.BytesIO(picture.data)) as image:
            image.draft("RGB", size)
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LeftOut("image unreadable") from error
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    return Picture(file.getvalue(), "jpg", *size)
