"""Checks of annotation files: every field is checked before it is used; errors name file, field, rule and value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple


class LayoutError(ValueError):
    """A file is not laid out as its data set's; the message names the file, the field, the rule and the value."""


class Rule(NamedTuple):
    """A rule for a field's value: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]

    def check(self, where: str, value: object) -> None:
        """Raise ``LayoutError`` where ``value`` breaks the rule; ``where`` names its file and field."""
        if not self.holds(value):
            raise LayoutError(f"{where} must be {self.words}, got {value!r:.60}")


_TOO_LARGE = 1e18  # for a number of a data set; NaN is not below it either
_LONGEST_NAME = 255


def is_number(value: object) -> bool:
    """True if ``value`` is a finite number, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_TOO_LARGE < value < _TOO_LARGE


def is_whole(value: object) -> bool:
    """True if ``value`` is a whole number, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


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


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(NAME.holds, value))


WHOLE = Rule("a whole number", is_whole)
ID = Rule("a whole number or a text that is not empty", lambda v: NAME.holds(v) or is_whole(v))
FLAG = Rule("0 or 1", lambda v: v in (0, 1))
LIST = Rule("a list", lambda v: isinstance(v, list))
PATH = Rule("a path inside the images' folder", _is_inner_path)
PIXELS = Rule("a number of pixels above 0", lambda v: is_number(v) and v > 0)
PIXELS_OR_NONE = Rule(PIXELS.words, lambda v: v is None or PIXELS.holds(v))
SIDE = Rule("a whole number of pixels above 0", lambda v: is_whole(v) and v > 0)
SIDE_OR_NONE = Rule(SIDE.words, lambda v: v is None or SIDE.holds(v))
TEXT = Rule("a text", lambda v: isinstance(v, str))
TEXTS = Rule("a list of texts", _are_texts)
NAME = Rule("a text that is not empty", lambda v: isinstance(v, str) and bool(v.strip()))
CAPTION = Rule("a text (is this a captions file?)", TEXT.holds)
XYWH = Rule("[x, y, width, height] in pixels", lambda v: isinstance(v, list) and len(v) == 4 and all(map(is_number, v)))
IMAGE = {"id": WHOLE, "width": SIDE, "height": SIDE}
CATEGORY = {"id": WHOLE, "name": NAME}


def require_file(path: Path) -> None:
    """Raise ``FileNotFoundError`` or ``IsADirectoryError`` where there is no such file."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; an annotation file is needed here")
    if not path.is_file():
        raise FileNotFoundError(f"the annotation file {path} does not exist")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def described(path: Path) -> str:
    """Name and checksum of an annotation file, for settings: shards made from another file are not mixed with its."""
    require_file(path)
    return f"{path.name}, sha256 {sha256_of(path)[:16]}"


def described_tar(path: Path) -> str:
    """Name, size and time of change of a tar, which is too large to be read for its settings."""
    status = path.stat()
    return f"{path.name}, {status.st_size} bytes, changed at {status.st_mtime_ns / 1e9:.3f}"


def described_folder(folder: Path, files: Iterable[Path]) -> str:
    """A folder's name, the number of its ``files`` and a checksum of their names, sizes and times of change."""
    known = [(path, path.stat()) for path in files]
    names = "".join(f"{path.relative_to(folder)}\0{at.st_size}\0{at.st_mtime_ns}\0" for path, at in known)
    digest = hashlib.sha256(names.encode(errors="replace")).hexdigest()
    return f"{folder.name}, {len(known)} files, sha256 {digest[:16]}"


def parse_json(path: Path, data: bytes) -> Any:
    """The JSON document of ``path``, whose bytes are ``data``, without polygons. Raises ``LayoutError``."""
    try:
        return json.loads(data, object_hook=_drop_outline)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{path} is not JSON: {error}") from error


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text that are not blank, without surrounding space, with their numbers from 1.

    A line ends by LF or CR LF alone: captions may hold other characters that Python takes for an end.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not UTF-8.
    """
    require_file(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path} is not UTF-8: {error}") from error
    numbered = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return ((number, line) for number, line in numbered if line)


class AnnotationFile:
    """A JSON object of lists of records, in COCO's manner, and the file's SHA-256 for the results.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, or no object.
    """

    def __init__(self, path: Path) -> None:
        require_file(path)
        data = path.read_bytes()
        self.path, self.sha256 = path, hashlib.sha256(data).hexdigest()
        self.document = parse_json(path, data)
        if not isinstance(self.document, dict):
            raise LayoutError(f"{path}: the JSON must be an object, got {type(self.document).__name__}")

    def rows(self, section: str, fields: Mapping[str, Rule]) -> Iterator[dict[str, Any]]:
        """The records of a list, their ``fields`` checked. Raises LayoutError at the first wrong one."""
        records = self.document.get(section)
        if not isinstance(records, list):
            kind = type(records).__name__
            raise LayoutError(f"{self.path}: '{section}' must be a list, as in COCO's files, got {kind}")
        return checked(self.path, section, records, fields)

    def by_id(self, section: str, fields: Mapping[str, Rule]) -> dict[Any, dict[str, Any]]:
        """The records of a list by their ``id``, in the file's order. Raises LayoutError where an id stands twice."""
        records: dict[Any, dict[str, Any]] = {}
        for row in self.rows(section, fields):
            if records.setdefault(row["id"], row) is not row:
                raise LayoutError(f"{self.path}: ids must differ, got {row['id']!r} twice in '{section}'")
        return records

    def refer(self, field: str, value: object, records: Mapping[Any, Any], section: str) -> None:
        """Raise LayoutError where ``value`` of ``field`` is the id of no record of ``section``."""
        if value not in records:
            raise LayoutError(f"{self.path}: '{field}' must be the id of one of '{section}', got {value!r}")


def checked(path: Path, where: str, rows: Iterable[Any], fields: Mapping[str, Rule]) -> Iterator[dict[str, Any]]:
    """The records of a list, their ``fields`` checked; ``where`` is the name of the list in errors."""
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise LayoutError(f"{path}: '{where}[{index}]' must be an object, got {row!r:.200}")
        for name, rule in fields.items():
            rule.check(f"{path}: '{where}[{index}].{name}'", row.get(name))
        yield row


def _drop_outline(record: dict[str, Any]) -> dict[str, Any]:
    """Drop the polygons, nine tenths of an instances file, while reading, so that they take no memory."""
    record.pop("segmentation", None)
    return record
