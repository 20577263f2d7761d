"""Check the fields of an annotation file before they are used: a wrong one is named with its file, rule and value."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple


class LayoutError(ValueError):
    """A file is not laid out as its data set's; the message names the file, the field, the rule and the value."""


class Rule(NamedTuple):
    """What a field's value must be: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]

    def check(self, where: str, value: object) -> None:
        """Raise ``LayoutError`` where ``value`` breaks the rule; ``where`` names its file and field."""
        if not self.holds(value):
            raise LayoutError(f"{where} must be {self.words}, got {value!r:.60}")


_FAR = 1e18  # beyond any number of a data set; NaN is not below it either
_LONGEST_NAME = 255


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_FAR < value < _FAR


def _is_inner_path(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    parts = PurePosixPath(value).parts
    return (
        bool(parts)
        and not {"..", "/"} & set(parts)
        and all(len(p) <= _LONGEST_NAME for p in parts)
        and len(parts) < 100
    )


def _is_id(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, int) and not isinstance(value, bool)


ID = Rule("a whole number or a text that is not empty", _is_id)
PATH = Rule("a path inside the images' folder", _is_inner_path)
PIXELS = Rule("a number of pixels above 0", lambda v: is_number(v) and v > 0)
PIXELS_OR_NONE = Rule(PIXELS.words, lambda v: v is None or PIXELS.holds(v))
NAME = Rule("a text that is not empty", lambda v: isinstance(v, str) and bool(v.strip()))
CAPTION = Rule("a text (is this a captions file?)", lambda v: isinstance(v, str))
XYWH = Rule("[x, y, width, height] in pixels", lambda v: isinstance(v, list) and len(v) == 4 and all(map(is_number, v)))


def require_file(path: Path) -> None:
    """Raise ``FileNotFoundError`` or ``IsADirectoryError`` where there is no such file."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; an annotation file is needed here")
    if not path.is_file():
        raise FileNotFoundError(f"the annotation file {path} does not exist")


def described(path: Path) -> str:
    """An annotation file as settings tell it: name and size, so that shards of another file are not taken for its."""
    require_file(path)
    return f"{path.name}, {path.stat().st_size} bytes"


def load_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ``FileNotFoundError``, or ``LayoutError`` where it is no JSON object."""
    require_file(path)
    return parse_json(path, path.read_bytes())


def parse_json(path: Path, data: bytes) -> dict[str, Any]:
    """The object of a JSON file, of which ``data`` is read already. Raises ``LayoutError`` where it is none."""
    try:
        document = json.loads(data, object_hook=_without_outline)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise LayoutError(f"{path}: the JSON must be an object, got {type(document).__name__}")
    return document


def rows(path: Path, document: dict[str, Any], section: str, fields: Mapping[str, Rule]) -> Iterator[dict[str, Any]]:
    """The rows of one of a document's lists, each checked: ``fields`` are the rules of the fields it must have."""
    found = document.get(section)
    if not isinstance(found, list):
        raise LayoutError(f"{path}: '{section}' must be a list, as in COCO's files, got {type(found).__name__}")
    yield from checked(path, section, found, fields)


def checked(path: Path, where: str, rows: Iterable[Any], fields: Mapping[str, Rule]) -> Iterator[dict[str, Any]]:
    """Hand on records with good ``fields``; ``where`` is the name of their list in errors."""
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise LayoutError(f"{path}: '{where}[{index}]' must be an object, got {row!r:.200}")
        for name, rule in fields.items():
            rule.check(f"{path}: '{where}[{index}].{name}'", row.get(name))
        yield row


def _without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """Polygons are nine tenths of an instances file; dropped while reading they take no memory."""
    record.pop("segmentation", None)
    return record
