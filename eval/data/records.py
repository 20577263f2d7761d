"""Lists of records from released files: JSON, JSON Lines, CSV, TSV and Parquet, with the file's checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.formats.layout import Rule, checked, parse_json, sha256_of
from datamodules.formats.row_readers import DELIMITERS, LINES, PARQUET, table_rows


class Records(NamedTuple):
    """The records of a file, checked, and its SHA-256."""

    path: Path
    rows: list[dict[str, Any]]
    sha256: str

    @property
    def files(self) -> dict[str, str]:
        """The file's name and checksum, for the results."""
        return {self.path.name: self.sha256}


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises FileNotFoundError, naming the option to look at, where there is none."""
    _require(path)
    return path.read_bytes()


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist; --root must be the folder of the data sets")


def read_text(path: Path) -> str:
    """A UTF-8 text. Raises FileNotFoundError as ``read_bytes``, ValueError, naming the file, for other encodings."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file. Raises FileNotFoundError as ``read_bytes``."""
    _require(path)
    return sha256_of(path)


def read_json(path: Path) -> tuple[Any, str]:
    """A JSON document and its SHA-256."""
    data = read_bytes(path)
    return parse_json(path, data), hashlib.sha256(data).hexdigest()


def read_records(path: Path, fields: Mapping[str, Rule], section: str | None = None) -> Records:
    """The records of a JSON list (or of the list ``section`` of an object), or of a table (``formats.row_readers``).

    A dictionary of records is read as the list of its values, in its order, whatever its keys; a dictionary with a
    single list (FLAIR's ``{"annotations": [...]}``) as that list.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming file, record, field, rule and value where a field breaks its rule.
    """
    data = read_bytes(path)
    if path.suffix.lower() in (*LINES, *DELIMITERS, PARQUET):
        rows = list(table_rows(path))
    else:
        rows = parse_json(path, data)
        if section is not None:
            if not isinstance(rows, dict):
                raise ValueError(f"{path}: the JSON must be an object, got {type(rows).__name__}")
            rows = rows.get(section)
        elif isinstance(rows, dict):
            rows = list(rows.values())
            rows = rows[0] if len(rows) == 1 and isinstance(rows[0], list) else rows
        if not isinstance(rows, list):
            part = "the JSON" if section is None else f"'{section}'"
            raise ValueError(f"{path}: {part} must be a list, got {type(rows).__name__}")
    records = list(checked(path, section or "records", rows, fields))
    if not records:
        raise ValueError(f"{path} must hold records, got none")
    for number, row in enumerate(records):
        require_characters(f"{path}: '{section or 'records'}[{number}]'", row)
    return Records(path, records, hashlib.sha256(data).hexdigest())


def require_characters(where: str, value: object) -> None:
    """Raise ValueError, naming ``where``, for texts that cannot be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds half of a surrogate pair, which is not a character") from error
