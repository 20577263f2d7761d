"""Rows of annotation files of any size, one at a time: JSON arrays, JSON lines, CSV, Parquet.

``lightning prepare table`` and evaluation read tables here. Text has the encoding that the user gives, or that of its
byte order mark, or UTF-8; a wrong byte stops the run, since damaged captions would be trained on. The delimiter of a
.csv or .tsv is the most frequent of comma, semicolon, tab and bar in its first line, as Excel writes semicolons where
the comma is the decimal sign.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from datamodules.formats.layout import LayoutError, require_file

DELIMITERS = {".csv": ",", ".tsv": "\t"}  # the defaults where the first line has none
LINES = (".jsonl", ".jsonlines", ".ndjson")
PARQUET = ".parquet"
TABLES = (".json", *LINES, *DELIMITERS, PARQUET)
_CHUNK = 1 << 20  # characters read at a time
_MAX_ROW = 1 << 26  # characters
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class EncodingError(LayoutError):
    """A byte is not of the file's encoding; the message names the file and the line."""


def json_array(path: Path, encoding: str | None = None) -> Iterator[dict[str, Any]]:
    """The objects of a JSON file that is one long array, in memory one at a time.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is no JSON array of objects, or ends too early.
    """
    with _open_text(path, encoding) as file:
        text, position, number = file.read(_CHUNK).lstrip("\ufeff \t\r\n"), 1, 0
        if not text.startswith("["):
            raise LayoutError(f"{path} must be a JSON array, [{{...}}, ...], and begins with {text[:20]!r}")
        decoder = json.JSONDecoder()
        while True:
            position = _skip(text, position, ", \t\r\n" if number else " \t\r\n")
            if position < len(text) and text[position] == "]":
                if trailing := (text[position + 1 :] + file.read(_CHUNK)).strip():
                    raise LayoutError(f"{path}: nothing must stand behind the array, got {trailing[:20]!r}")
                return
            try:
                row, end = decoder.raw_decode(text, position)
                if end == len(text):
                    raise ValueError("the text may go on")
            except (ValueError, RecursionError) as error:
                chunk = file.read(_CHUNK)
                if not chunk or len(text) - position > _MAX_ROW:
                    raise LayoutError(f"{path}: row {number} is not JSON, or the file is cut: {error}") from error
                text, position = text[position:] + chunk, 0
                continue
            yield _object(row, path, number)
            position, number = end, number + 1
            if position > _CHUNK:
                text, position = text[position:], 0


def json_lines(path: Path, encoding: str | None = None) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; empty lines are skipped. Raises as ``json_array``."""
    with _open_text(path, encoding) as file:
        for number, line in enumerate(file):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise LayoutError(f"{path}: line {number + 1} is not JSON: {error}") from error
                yield _object(row, path, number)


def table_rows(path: Path, encoding: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a table by its file's extension: .csv, .tsv, .jsonl, .json (an array) or .parquet.

    Args:
        path: the table.
        encoding: of its text; None: UTF-8, or what its byte order mark says.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: its extension is another, it cannot be read as what it says, or a letter is not of its encoding.
        ModuleNotFoundError: a .parquet, and pyarrow is not installed.
        ValueError: Python knows no such encoding.
    """
    kind = path.suffix.lower()
    if kind in DELIMITERS:
        with _open_text(path, encoding, newline="") as file:
            yield from _csv(path, file, DELIMITERS[kind])
    elif kind in LINES:
        yield from json_lines(path, encoding)
    elif kind == ".json":
        yield from json_array(path, encoding)
    elif kind == PARQUET:
        yield from _parquet(path)
    else:
        raise LayoutError(f"a table must be .csv, .tsv, .jsonl, .json or .parquet, got {path.name!r}")


def _csv(path: Path, file: IO[str], delimiter: str) -> Iterator[dict[str, str]]:
    """The rows below the head line, which has the fields' names."""
    csv.field_size_limit(sys.maxsize)
    head, lines_above = file.readline(), 0
    if excel_separator := re.fullmatch(r'"?sep=(.)"?\s*', head):  # Excel's own line
        delimiter, lines_above = excel_separator[1], 1
    else:
        unquoted = re.sub(r'"[^"]*"', "", head)
        delimiter = max((delimiter, *",;\t|"), key=unquoted.count)
        file.seek(0)
    rows = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        names = [name.strip() for name in next(rows, [])]
        if repeated := [name for n, name in enumerate(names) if name and name in names[:n]]:
            raise LayoutError(f"{path}: columns must have names of their own, got {repeated[0]!r} twice")
        for row in rows:
            if not any(row):
                continue
            if len(row) != len(names):
                raise LayoutError(
                    f"{path}: line {rows.line_num + lines_above} must have as many fields as the head line, "
                    f"{len(names)}, got {len(row)}; a text with {delimiter!r} in it stands in quotes"
                )
            yield dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise LayoutError(f"{path}: line {rows.line_num + lines_above} is no row of a table: {error}") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading .parquet needs pyarrow: pip install 'grainclip[parquet]'") from error
    require_file(path)
    try:
        batches = parquet.ParquetFile(path).iter_batches(1024)
        yield from (row for batch in batches for row in batch.to_pylist())
    except (ValueError, OSError) as error:  # pyarrow's own are among them
        raise LayoutError(f"{path} is not a Parquet file that can be read: {error}") from error


@contextmanager
def _open_text(path: Path, encoding: str | None, newline: str | None = None) -> Iterator[IO[str]]:
    """The file as text. Raises ``LayoutError`` where a letter is not of the encoding."""
    require_file(path)
    with path.open("rb") as raw:
        head = raw.read(4)
    encoding_of_mark = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8")
    wanted = encoding or encoding_of_mark
    try:
        is_utf8 = codecs.lookup(wanted).name == "utf-8"
    except LookupError as error:
        raise ValueError(
            f"encoding must be one that Python knows, such as utf-8 or cp1252, got {encoding!r}"
        ) from error
    try:  # utf-8-sig reads files without a byte order mark too
        with path.open(encoding="utf-8-sig" if is_utf8 else wanted, newline=newline) as file:
            yield file
    except UnicodeError as error:
        raise EncodingError(_encoding_problem(path, wanted)) from error


def _encoding_problem(path: Path, encoding: str) -> str:
    """An error message that names the first line not in ``encoding``, and the remedy."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return f"{path}: line {number} is not {encoding} (byte 0x{line[error.start]:02x}); save it as UTF-8"
    return f"{path} is not {encoding}; save it as UTF-8"


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _object(row: object, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise LayoutError(f"{path}: row {number} must be an object, got {row!r:.100}")
    return row
