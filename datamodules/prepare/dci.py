"""Densely Captioned Images (Urbanek et al., 2023) as shards: long captions, and a box for every mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from datamodules.prepare.job import Job
from datamodules.prepare.layout import NAME, PATH, Rule, is_number, load_json
from datamodules.prepare.records import Drawn, Record, path_key, write_records
from datamodules.prepare.shard_jobs import Manifest

_UNUSABLE = 2  # mask_quality


def prepare_dci(
    images: Path,
    annotations: Path,
    job: Job,
    splits: Path | None = None,
    split: Literal["train", "valid", "test"] = "train",
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from Densely Captioned Images: short and extra caption, the masks' bounds as regions.

    The short caption is the summary and the caption's beginning. Masks of unusable quality are left out.

    Args:
        images: the folder of the pictures (photos/).
        annotations: the folder of the JSON files, one an image (annotations/ or complete/).
        job: where to, and how.
        splits: splits.json; without it all images are taken.
        split: which of its images.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: a file or, without ``skip_missing``, an image is missing.
        LayoutError: one is not laid out as DCI's.
        ValueError: a number is out of its range, or no image was left to write.
    """
    files = sorted(annotations.glob("*.json"))
    if splits is not None:
        listed = load_json(splits).get(split)
        _FILES.check(f"{splits}: '{split}'", listed)
        assert listed is not None
        files = [file for file in files if file.name in set(listed)]
    if not files:
        raise FileNotFoundError(f"{annotations} holds no JSON file of the images asked for")
    settings = {"split": split if splits else None}

    def records() -> Iterator[Record]:
        return (_dci(images, file) for file in files)

    return write_records(
        records, job, source="dci", settings=settings, listed_in=annotations, skip_missing=skip_missing
    )


def _dci(images: Path, file: Path) -> Record:
    row = load_json(file)
    for field, rule in {"image": PATH, "short_caption": NAME}.items():
        rule.check(f"{file}: '{field}'", row.get(field))
    text = Rule("a text", lambda v: isinstance(v, str))
    extra, masks = row.get("extra_caption", ""), row.get("mask_data", {})
    text.check(f"{file}: 'extra_caption'", extra)
    Rule("an object", lambda v: isinstance(v, dict)).check(f"{file}: 'mask_data'", masks)
    boxes = []
    for name, mask in masks.items():
        _BOUNDED.check(f"{file}: 'mask_data.{name}.bounds'", mask.get("bounds") if isinstance(mask, dict) else None)
        if mask.get("mask_quality") != _UNUSABLE:
            (x0, y0), (x1, y1) = ((mask["bounds"][c]["x"], mask["bounds"][c]["y"]) for c in _CORNERS)
            label = mask.get("label")
            boxes.append(Drawn((x0, y0, x1, y1), label if isinstance(label, str) and label.strip() else None))
    caption = f"{row['short_caption']}\n\n{extra}"
    return Record(path_key(row["image"]), file.name, images / row["image"], caption, row["short_caption"], boxes)


_FILES = Rule("a list of file names", lambda v: isinstance(v, list) and all(map(NAME.holds, v)))
_CORNERS = ("topLeft", "bottomRight")
_BOUNDED = Rule(
    "{topLeft: {x, y}, bottomRight: {x, y}} in pixels",
    lambda v: (
        isinstance(v, dict)
        and all(isinstance(v.get(c), dict) and all(is_number(v[c].get(axis)) for axis in "xy") for c in _CORNERS)
    ),
)
