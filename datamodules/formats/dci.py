"""Densely Captioned Images' files (Urbanek et al., 2023): a JSON object an image, and ``splits.json``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from datamodules.formats.layout import PATH, TEXT, AnnotationFile, Rule, is_number
from datamodules.sample import Box

_UNUSABLE = 2  # mask_quality
_CORNERS = ("topLeft", "bottomRight")
_FILES = Rule("a list of files of annotations", lambda v: isinstance(v, list) and all(map(PATH.holds, v)))
_MASKS = Rule("an object", lambda v: isinstance(v, dict))
_BOUNDED = Rule(
    "{topLeft: {x, y}, bottomRight: {x, y}} in pixels",
    lambda v: (
        isinstance(v, dict)
        and all(isinstance(v.get(c), dict) and all(is_number(v[c].get(axis)) for axis in "xy") for c in _CORNERS)
    ),
)


class DciImage(NamedTuple):
    """An image's path in the images' folder, its two captions, and box (in pixels) and label of each usable mask.

    The second caption may be empty, and a label None.
    """

    file: str
    short_caption: str
    extra_caption: str
    masks: list[tuple[Box, str | None]]


def read_dci(path: Path) -> tuple[DciImage, str]:
    """An image's annotation, and the file's SHA-256. Raises FileNotFoundError, LayoutError."""
    annotation = AnnotationFile(path)
    row = {"extra_caption": "", "mask_data": {}} | annotation.document
    fields = {"image": PATH, "short_caption": TEXT, "extra_caption": TEXT, "mask_data": _MASKS}
    for field, rule in fields.items():
        rule.check(f"{path}: '{field}'", row.get(field))
    masks = []
    for name, mask in row["mask_data"].items():
        _BOUNDED.check(f"{path}: 'mask_data.{name}.bounds'", mask.get("bounds") if isinstance(mask, dict) else None)
        if mask.get("mask_quality") != _UNUSABLE:
            (x0, y0), (x1, y1) = ((mask["bounds"][c]["x"], mask["bounds"][c]["y"]) for c in _CORNERS)
            label = mask.get("label")
            masks.append(((x0, y0, x1, y1), label if isinstance(label, str) and label.strip() else None))
    return DciImage(row["image"], row["short_caption"], row["extra_caption"], masks), annotation.sha256


def read_dci_split(path: Path, split: str) -> list[str]:
    """The names of a split's annotation files, by ``splits.json``. Raises FileNotFoundError, LayoutError."""
    names = AnnotationFile(path).document.get(split)
    _FILES.check(f"{path}: '{split}'", names)
    return names
