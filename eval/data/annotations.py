"""Official annotation files: JSON in COCO's manner, every field checked before it is used, and the file's checksum.

An error names the file, the field, the rule and the value. Benchmarks are only comparable on the same file, so its
SHA-256 goes into the results. The rules are those of ``datamodules.prepare.layout`` and a few more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.prepare.layout import NAME, PATH, XYWH, LayoutError, Rule, checked, parse_json, rows

__all__ = [
    "CATEGORY",
    "FLAG",
    "ID",
    "IMAGE",
    "LIST",
    "NAME",
    "PATH",
    "SIDE",
    "SIDE_OR_NONE",
    "XYWH",
    "AnnotationFile",
    "LayoutError",
    "Rule",
    "checked",
]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


ID = Rule("a whole number", _whole)
SIDE = Rule("a whole number of pixels above 0", lambda v: _whole(v) and v > 0)
SIDE_OR_NONE = Rule(SIDE.words, lambda v: v is None or SIDE.holds(v))
FLAG = Rule("0 or 1", lambda v: v in (0, 1))
LIST = Rule("a list", lambda v: isinstance(v, list))
IMAGE = {"id": ID, "width": SIDE, "height": SIDE}
CATEGORY = {"id": ID, "name": NAME}


class AnnotationFile:
    """A JSON file of lists of records.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, or no object; a ValueError.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"the annotation file {path} does not exist; --root must be the folder above it")
        data = path.read_bytes()
        self.path, self.sha256 = path, hashlib.sha256(data).hexdigest()
        self._document = parse_json(path, data)

    def rows(self, section: str, fields: Mapping[str, Rule]) -> Iterator[dict[str, Any]]:
        """The records of a list, each with good ``fields``. Raises LayoutError at the first that is not."""
        return rows(self.path, self._document, section, fields)

    def checked(self, where: str, listed: list[Any], fields: Mapping[str, Rule]) -> Iterator[dict[str, Any]]:
        """The same for a list inside a record; ``where`` is its name in errors."""
        return checked(self.path, where, listed, fields)

    def by_id(self, section: str, fields: Mapping[str, Rule]) -> dict[int, dict[str, Any]]:
        """The records of a list by their ``id``, in the file's order. Raises LayoutError where an id stands twice."""
        found: dict[int, dict[str, Any]] = {}
        for row in self.rows(section, fields):
            if found.setdefault(row["id"], row) is not row:
                raise LayoutError(f"{self.path}: ids must differ, got {row['id']} twice in '{section}'")
        return found

    def refer(self, field: str, value: int, known: Mapping[int, Any], section: str) -> None:
        """Raises LayoutError where ``value`` of ``field`` is the id of no record of ``section``."""
        if value not in known:
            raise LayoutError(f"{self.path}: '{field}' must be the id of one of '{section}', got {value}")
