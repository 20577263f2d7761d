"""GRIT (Kosmos-2, Peng et al., 2023) as shards, from what img2dataset fetches: web images, their phrases grounded.

A detector boxed each caption's noun chunks, and a parser grew them to referring expressions ("a dog" to "a dog in a
field"): ``noun_chunks`` and ``ref_exps`` both list ``[start, end, x0, y0, x1, y1, score]``, characters of the caption
and fractions of the picture. Both become phrases; an expression that is a chunk grown by nothing is the same phrase.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from datamodules.formats.layout import CAPTION, PIXELS, Rule, is_number
from datamodules.granularity.cutting import Span
from datamodules.prepare.boxes import from_fractions, usable
from datamodules.prepare.captions import tidy_caption
from datamodules.prepare.grit_files import GritItem, Work, find_works
from datamodules.prepare.grounding import Grounded, grounded_sample
from datamodules.prepare.images import look_into, sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import LeftOut, Rejects
from datamodules.prepare.shard_jobs import Manifest, Unit, write_units
from datamodules.sample import Sample


def prepare_grit(
    data: str,
    job: PrepareJob,
    min_score: float = 0.0,
) -> Manifest | None:
    """Write shards from GRIT as img2dataset saves it, with the columns `noun_chunks` and `ref_exps`.

    One shard a tar; `samples_per_shard` counts where the data are files.

    Args:
        data: a tar, a folder of tars, a glob or braces; or a folder of files, KEY.jpg and KEY.json.
        job: where to, and how.
        min_score: boxes that the detector was less sure of are left out, with their phrases, and counted.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        ShardError: there is nothing to read, or a tar is damaged.
        FileExistsError: the folder holds shards made with other settings, and ``job.overwrite`` is off.
        LayoutError: a JSON's fields are not GRIT's.
        ValueError: ``min_score`` lies outside [0, 1], or no image was left to write.
    """
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score must lie in [0, 1], got {min_score}")
    job.finder.require()
    works, told = find_works(data, job.samples_per_shard)
    return write_units(
        (Unit(number, work) for number, work in enumerate(works)),
        GritReader(min_score, job).samples,
        job,
        source="grit",
        settings={"data": told, "min_score": min_score},
    )


_SAVED = Rule(
    "among the JSON's fields (img2dataset saves it with --save_additional_columns)", lambda v: "noun_chunks" in v
)
_ENTRIES = Rule("a list of [start, end, x0, y0, x1, y1, score]", lambda v: isinstance(v, list))
_ENTRY = Rule(
    "[start, end, x0, y0, x1, y1, score], start and end whole numbers",
    lambda v: (
        isinstance(v, list) and len(v) == 7 and all(map(is_number, v)) and v[0] == int(v[0]) and v[1] == int(v[1])
    ),
)


class GritReader(NamedTuple):
    """From images with a JSON each to samples."""

    min_score: float
    job: PrepareJob

    def samples(self, work: Work, rejects: Rejects) -> Iterator[Sample]:
        """A sample a picture. What has no caption, or whose image is no good, is counted with its boxes."""
        for item in work.items(rejects):
            record = _parse(item.json)
            if record is None:
                rejects.add("json missing" if item.json is None else "json unreadable", item.place)
                continue
            entries = _entries(record, item.place)
            try:
                yield self._sample(item, record, entries, rejects)
            except LeftOut as left:
                rejects.add_image(left.reason, item.key, len(entries))

    def _sample(self, item: GritItem, record: dict[str, Any], entries: list[list[float]], rejects: Rejects) -> Sample:
        text, size = _caption(record, item.place), _size(record, item.place)
        if item.image is None:
            raise LeftOut("image missing")
        picture = look_into(item.image, size)
        sure = [entry for entry in entries if entry[6] >= self.min_score]
        caption, moved = tidy_caption(text, map(_span, sure), self.job.finder, rejects, item.key)
        for entry in entries:
            if entry[6] < self.min_score:
                rejects.add("score below min_score", f"{item.key} {entry}")
        boxes = usable(sure, lambda e: picture.upright(from_fractions(e[2:6])), rejects, lambda e: f"{item.key} {e}")
        linked = [(box, [moved[span]] if (span := _span(entry)) in moved else []) for entry, box in boxes]
        image = Grounded(sample_key(item.key), item.key, self.job.fitted(picture), caption, linked)
        return grounded_sample(image, self.job.finder, source="grit", rejects=rejects)


def _parse(data: bytes | None) -> dict[str, Any] | None:
    try:
        record = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _entries(record: dict[str, Any], place: str) -> list[list[float]]:
    """The noun chunks, then the expressions, which may be missing; a parquet's null is an empty list."""
    _SAVED.check(f"{place}: 'noun_chunks'", sorted(record))
    found = []
    for field in ("noun_chunks", "ref_exps"):
        entries = [] if record.get(field) is None else record[field]
        _ENTRIES.check(f"{place}: '{field}'", entries)
        for index, entry in enumerate(entries):
            _ENTRY.check(f"{place}: '{field}[{index}]'", entry)
            found.append(entry)
    return found


def _caption(record: dict[str, Any], place: str) -> str:
    """The caption, "" where the web page had none."""
    text = record.get("caption")
    if text is None:
        return ""
    CAPTION.check(f"{place}: 'caption'", text)
    return text


def _size(record: dict[str, Any], place: str) -> tuple[float, float]:
    """The size to which boxes are relative: the image's before img2dataset resized it, where the JSON has it."""
    prefix = "original_" if record.get("original_width") is not None else ""
    for side in ("width", "height"):
        PIXELS.check(f"{place}: '{prefix}{side}'", record.get(prefix + side))
    return record[f"{prefix}width"], record[f"{prefix}height"]


def _span(entry: list[float]) -> Span:
    return Span(int(entry[0]), int(entry[1]))
