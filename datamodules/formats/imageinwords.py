"""ImageInWords' files (Garg et al., 2024): ``data.jsonl`` of IIW-400, DCI_Test and DOCCI_Test, a caption a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.formats.layout import NAME, PATH, Rule
from datamodules.formats.row_readers import json_lines
from datamodules.sample import IMAGE_EXTENSIONS

_CAPTION = Rule(
    "a caption, or a list of captions",
    lambda v: NAME.holds(v) or (isinstance(v, list) and bool(v) and NAME.holds(v[0])),
)


class DescribedImage(NamedTuple):
    """An image's file name, with its extension, and its caption: the first where there are several."""

    file: str
    caption: str


def read_imageinwords(path: Path) -> Iterator[DescribedImage]:
    """The images in the file's order. Raises FileNotFoundError, LayoutError."""
    for number, row in enumerate(json_lines(path), 1):
        file, caption = row.get("image", row.get("image/key")), row.get("IIW")
        PATH.check(f"{path}: line {number}'s 'image' or 'image/key'", file)
        _CAPTION.check(f"{path}: line {number}'s 'IIW'", caption)
        name = str(file)
        if name.rpartition(".")[2].lower() not in IMAGE_EXTENSIONS:
            name = f"{name}.jpg"
        yield DescribedImage(name, caption[0] if isinstance(caption, list) else str(caption))


def other_name(file: str) -> str:
    """The name that DOCCI's release may give the image: it calls some of the images ``test_N`` ``train_N``."""
    return file.replace("test", "train", 1)
