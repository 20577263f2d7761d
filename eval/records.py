"""Lists of records from released files: JSON, JSON Lines, CSV and TSV, with the file's checksum.

A file whose JSON is too large to read whole (ShareGPT4V's list of 1.2 million captions, 1.5 GB) is read record by
record up to the number that is asked for; then the checksum is that of the records.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eval.annotations import Rule, checked

READ = 1 << 20  # characters at once
LINES = (".jsonl", ".jsonlines")
DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Records(NamedTuple):
    """The records of a file, checked, and its SHA-256."""

    path: Path
    rows: list[dict[str, Any]]
    sha256: str

    @property
    def files(self) -> dict[str, str]:
        """As results tell it: the file's name and checksum."""
        return {self.path.name: self.sha256}


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises FileNotFoundError, naming the option to look at, where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist; --root must be the folder of the data sets")
    return path.read_bytes()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file. Raises FileNotFoundError as ``read_bytes``."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def read_json(path: Path) -> tuple[Any, str]:
    """A JSON document and its SHA-256."""
    data = read_bytes(path)
    return parse(path, data), hashlib.sha256(data).hexdigest()


def read_records(path: Path, fields: Mapping[str, Rule], section: str | None = None) -> Records:
    """The records of a JSON list (or of the list ``section`` of an object), of JSON Lines, CSV or TSV.

    A dictionary of records counts as the list of its values, in its order: numbers left out in its keys do not matter;
    one of a single list (FLAIR's ``{"annotations": [...]}``) as that list.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming file, record, field, rule and value where one is not as it should be.
    """
    data = read_bytes(path)
    if path.suffix in LINES:
        rows = [parse(path, line, f", line {n}") for n, line in enumerate(data.splitlines(), 1) if line.strip()]
    elif path.suffix in DELIMITERS:
        rows = list(_table(path, data))
    else:
        rows = parse(path, data)
        if section is not None:
            if not isinstance(rows, dict):
                raise ValueError(f"{path}: the JSON must be an object, got {type(rows).__name__}")
            rows = rows.get(section)
        elif isinstance(rows, dict):
            rows = list(rows.values())
            rows = rows[0] if len(rows) == 1 and isinstance(rows[0], list) else rows
        if not isinstance(rows, list):
            what = "the JSON" if section is None else f"'{section}'"
            raise ValueError(f"{path}: {what} must be a list, got {type(rows).__name__}")
    found = list(checked(path, section or "records", rows, fields))
    if not found:
        raise ValueError(f"{path} must hold records, got none")
    return Records(path, found, hashlib.sha256(data).hexdigest())


def first_records(path: Path, count: int, fields: Mapping[str, Rule]) -> Records:
    """The first ``count`` records of a JSON list, read no further. Raises as ``read_records``, and where there are
    fewer.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist; --root must be the folder of the data sets")
    rows: list[Any] = []
    for row in _stream(path):
        rows.append(row)
        if len(rows) == count:
            break
    if len(rows) < count:
        raise ValueError(f"{path} must hold at least {count} records, got {len(rows)}")
    found = list(checked(path, "records", rows, fields))
    return Records(path, found, hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest())


def parse(path: Path, data: bytes, where: str = "") -> Any:
    """JSON. Raises ValueError naming the file."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}{where} is not JSON: {error}") from error


def _table(path: Path, data: bytes) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    text = data.decode("utf-8-sig")
    head = text.partition("\n")[0]
    tabs = "\t" in head and "," not in head  # Long-DCI's .csv
    delimiter = "\t" if tabs else DELIMITERS[path.suffix]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(rows, 2):
            if None in row or None in row.values():
                raise ValueError(f"{path}: row {number} must have as many fields as the head line, got {row}")
            yield row
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num + 1} is no row of a table: {error}") from error


def _stream(path: Path) -> Iterator[Any]:
    decoder, text, at = json.JSONDecoder(), "", 0
    with path.open(encoding="utf-8") as file:
        text = file.read(READ).lstrip()
        if not text.startswith("["):
            raise ValueError(f"{path}: the JSON must be a list, got {text[:20]!r}")
        at = 1
        while True:
            while at < len(text) and text[at] in ", \t\r\n":
                at += 1
            try:
                if text[at : at + 1] == "]":
                    return
                row, end = decoder.raw_decode(text, at)
                if end == len(text):  # a number may go on in what is not read yet
                    raise ValueError("the record may not be whole")
            except ValueError as error:
                more = file.read(READ)
                if not more:
                    raise ValueError(f"{path} is not JSON: it ends within a record: {error}") from error
                text, at = text[at:] + more, 0
                continue
            at = end
            yield row
