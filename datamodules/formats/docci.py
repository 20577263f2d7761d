"""DOCCI's file (Onoe et al., 2024): ``docci_descriptions.jsonlines``, a photograph and its description a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.formats.layout import NAME, PATH
from datamodules.formats.row_readers import json_lines

FIELDS = {"split": NAME, "image_file": PATH, "description": NAME}


class DocciImage(NamedTuple):
    """An image's split, its path in the images' folder, and its description."""

    split: str
    file: str
    description: str


def read_docci(path: Path) -> Iterator[DocciImage]:
    """The images in the file's order. Raises FileNotFoundError, LayoutError."""
    for number, row in enumerate(json_lines(path), 1):
        for field, rule in FIELDS.items():
            rule.check(f"{path}: line {number}'s '{field}'", row.get(field))
        yield DocciImage(row["split"], row["image_file"], row["description"])
