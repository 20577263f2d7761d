"""Official annotation files: JSON in COCO's manner, every field checked before it is used, and the file's checksum.

An error names the file, the field, the rule and the value. Benchmarks are only comparable on the same file, so its
SHA-256 goes into the results.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """What a field must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _inner_path(value: object) -> bool:
    return isinstance(value, str) and bool(value) and not {"..", "/"} & set(PurePosixPath(value).parts)


ID = Rule("a whole number", _whole)
NAME = Rule("a text that is not empty", lambda v: isinstance(v, str) and bool(v.strip()))
PATH = Rule("a path inside its folder", _inner_path)
SIDE = Rule("a whole number of pixels above 0", lambda v: _whole(v) and v > 0)
FLAG = Rule("0 or 1", lambda v: v in (0, 1))
LIST = Rule("a list", lambda v: isinstance(v, list))
XYWH = Rule("[x, y, width, height] in pixels", lambda v: isinstance(v, list) and len(v) == 4 and all(map(_number, v)))
IMAGE = {"id": ID, "width": SIDE, "height": SIDE}
CATEGORY = {"id": ID, "name": NAME}


class AnnotationFile:
    """A JSON file of lists of records.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or no object.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"the annotation file {path} does not exist; --root must be the folder above it")
        data = path.read_bytes()
        self.path, self.sha256 = path, hashlib.sha256(data).hexdigest()
        try:
            document = json.loads(data, object_hook=_without_outline)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ValueError(f"{path}: the JSON must be an object, got {type(document).__name__}")
        self._document: dict[str, Any] = document

    def rows(self, section: str, fields: Mapping[str, Rule]) -> Iterator[dict[str, Any]]:
        """The records of a list, each with good ``fields``. Raises ValueError at the first that is not."""
        rows = self._document.get(section)
        if not isinstance(rows, list):
            raise ValueError(f"{self.path}: '{section}' must be a list, got {type(rows).__name__}")
        return self.checked(section, rows, fields)

    def checked(self, where: str, rows: list[Any], fields: Mapping[str, Rule]) -> Iterator[dict[str, Any]]:
        """The same for a list inside a record; ``where`` is its name in errors."""
        return checked(self.path, where, rows, fields)

    def by_id(self, section: str, fields: Mapping[str, Rule]) -> dict[int, dict[str, Any]]:
        """The records of a list by their ``id``, in the file's order. Raises ValueError where an id stands twice."""
        found: dict[int, dict[str, Any]] = {}
        for row in self.rows(section, fields):
            if found.setdefault(row["id"], row) is not row:
                raise ValueError(f"{self.path}: ids must differ, got {row['id']} twice in '{section}'")
        return found

    def refer(self, field: str, value: int, known: Mapping[int, Any], section: str) -> None:
        """Raises ValueError where ``value`` of ``field`` is the id of no record of ``section``."""
        if value not in known:
            raise ValueError(f"{self.path}: '{field}' must be the id of one of '{section}', got {value}")


def checked(path: Path, where: str, rows: Iterable[Any], fields: Mapping[str, Rule]) -> Iterator[dict[str, Any]]:
    """Hand on records with good ``fields``; ValueError, naming the file and the place, at the first that is not."""
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: '{where}[{index}]' must be an object, got {row!r}")
        for name, rule in fields.items():
            if not rule.holds(row.get(name)):
                raise ValueError(f"{path}: '{where}[{index}].{name}' must be {rule.words}, got {row.get(name)!r}")
        yield row


def _without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """Polygons are nine tenths of an instances file; dropped while reading they take no memory."""
    record.pop("segmentation", None)
    return record
