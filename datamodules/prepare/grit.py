"""GRIT (Kosmos-2, Peng et al., 2023) as shards, from what img2dataset fetches: web pictures, their phrases grounded.

A detector boxed each caption's noun chunks, and a parser grew them to referring expressions ("a dog" to "a dog in a
field"): ``noun_chunks`` and ``ref_exps`` both list ``[start, end, x0, y0, x1, y1, score]``, characters of the caption
and fractions of the picture. Both become phrases; an expression that is a chunk grown by nothing is the same phrase.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datamodules.granularity import Span
from datamodules.nltk_data import require_nltk_data
from datamodules.phrases import phrases_of
from datamodules.prepare.boxes import from_fractions, usable
from datamodules.prepare.captions import tidy_caption
from datamodules.prepare.grit_files import Item, Items
from datamodules.prepare.grounding import Grounded, grounded_sample
from datamodules.prepare.layout import CAPTION, PIXELS, Rule, is_number
from datamodules.prepare.pictures import sample_key
from datamodules.prepare.rejects import LeftOut, Rejects
from datamodules.prepare.writing import write_source
from datamodules.sample import Sample
from datamodules.shard_writer import require_free


def prepare_grit(
    data: str,
    out: Path,
    min_score: float = 0.0,
    samples_per_shard: int = 1000,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write shards from GRIT as img2dataset saves it, with the columns `noun_chunks` and `ref_exps`.

    Args:
        data: a tar, a folder of tars, a glob or braces; or a folder of files, KEY.jpg and KEY.json.
        out: the folder to write shards and manifest.json to.
        min_score: boxes that the detector was less sure of are left out, with their phrases, and counted.
        samples_per_shard: how many samples a shard holds.
        overwrite: replace the shards that `out` already holds.

    Returns:
        The manifest that was written.

    Raises:
        NltkDataError: NLTK's data is missing.
        ShardError: there is nothing to read, or a tar is damaged.
        FileExistsError: ``out`` holds shards, and ``overwrite`` is off.
        LayoutError: a JSON's fields are not GRIT's.
        ValueError: ``min_score`` lies outside [0, 1], or no image was left to write.
    """
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score must lie in [0, 1], got {min_score}")
    require_nltk_data()
    require_free(out, overwrite=overwrite)
    reader = _Reader(min_score)
    return write_source(
        Items(data),
        reader.sample,
        out,
        source="grit",
        rejects=reader.rejects,
        samples_per_shard=samples_per_shard,
        overwrite=overwrite,
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


class _Reader:
    """From a picture and its JSON to a sample. What is left out is counted in ``rejects``."""

    def __init__(self, min_score: float) -> None:
        self.min_score = min_score
        self.rejects = Rejects()

    def sample(self, item: Item) -> Sample | None:
        """The sample of ``item``; None, and counted, where it has no caption or its picture is no good."""
        record = _parse(item.json)
        if record is None:
            return self.rejects.add("json missing" if item.json is None else "json unreadable", item.place)
        entries = _entries(record, item.place)
        if item.image is None:
            return self.rejects.add_image("image missing", item.key, len(entries))
        text, size = _caption(record, item.place), _size(record, item.place)
        sure = [entry for entry in entries if self._is_sure(entry, item.key)]
        try:
            caption, moved = tidy_caption(text, map(_span, sure), self.rejects, item.key)
        except LeftOut as left:
            return self.rejects.add_image(left.reason, item.key, len(sure))
        boxes = usable(
            sure, lambda entry: from_fractions(entry[2:6]), self.rejects, lambda entry: f"{item.key} {entry}"
        )
        linked = [(box, [moved[span]] if (span := _span(entry)) in moved else []) for entry, box in boxes]
        image = Grounded(sample_key(item.key), item.key, item.image, size, caption, linked)
        return grounded_sample(image, phrases_of, source="grit", rejects=self.rejects)

    def _is_sure(self, entry: list[float], key: str) -> bool:
        if entry[6] < self.min_score:
            self.rejects.add("score below min_score", f"{key} {entry}")
        return entry[6] >= self.min_score


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
    """What the boxes are fractions of: the picture as it was before img2dataset resized it, where that is told."""
    prefix = "original_" if record.get("original_width") is not None else ""
    for side in ("width", "height"):
        PIXELS.check(f"{place}: '{prefix}{side}'", record.get(prefix + side))
    return record[f"{prefix}width"], record[f"{prefix}height"]


def _span(entry: list[float]) -> Span:
    return Span(int(entry[0]), int(entry[1]))
