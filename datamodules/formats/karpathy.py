"""Karpathy's splits of COCO and Flickr30k, in the two forms that are in use.

``dataset_NAME.json``: {"images": [{filename, filepath?, split, sentences: [{raw}]}]}; ALBEF's and LAVIS's list of one
split: [{image: "val2014/NAME.jpg", caption: [...]}].
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datamodules.formats.layout import (
    CAPTION,
    LIST,
    NAME,
    PATH,
    TEXTS,
    LayoutError,
    Rule,
    checked,
    parse_json,
    require_file,
)

_FOLDER = Rule("a path inside the images' folder, or missing", lambda v: v is None or PATH.holds(v))
_FIELDS = {"filename": PATH, "filepath": _FOLDER, "split": NAME, "sentences": LIST}


class SplitImage(NamedTuple):
    """An image: its folder in the file, its name, its split (None in ALBEF's list), and its captions."""

    folder: str | None
    file: str
    split: str | None
    captions: list[str]


def read_karpathy(path: Path) -> tuple[list[SplitImage], str]:
    """The images in the file's order, and the file's SHA-256. Raises FileNotFoundError, LayoutError."""
    require_file(path)
    data = path.read_bytes()
    document, images = parse_json(path, data), []
    if isinstance(document, list):
        for row in checked(path, "records", document, {"image": PATH, "caption": TEXTS}):
            folder = PurePosixPath(row["image"]).parent.name
            images.append(SplitImage(folder or None, row["image"], None, row["caption"]))
        return images, hashlib.sha256(data).hexdigest()
    rows = document.get("images") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise LayoutError(f"{path}: 'images' must be a list, got {type(rows).__name__}")
    for index, row in enumerate(checked(path, "images", rows, _FIELDS)):
        sentences = checked(path, f"images[{index}].sentences", row["sentences"], {"raw": CAPTION})
        images.append(SplitImage(row.get("filepath"), row["filename"], row["split"], [s["raw"] for s in sentences]))
    return images, hashlib.sha256(data).hexdigest()
