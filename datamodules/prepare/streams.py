"""Rows of annotation files of any size, one at a time: JSON arrays, JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from datamodules.prepare.layout import LayoutError

_CHUNK = 1 << 20  # characters read at a time
_LONGEST = 1 << 26  # characters of one row; more is no row


def json_array(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON file that is one long array, in memory one at a time.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is no JSON array of objects, or ends too early.
    """
    with _opened(path) as file:
        text, at, number = file.read(_CHUNK).lstrip("\ufeff \t\r\n"), 1, 0
        if not text.startswith("["):
            raise LayoutError(f"{path} must be a JSON array, [{{...}}, ...], and begins with {text[:20]!r}")
        decoder = json.JSONDecoder()
        while True:
            at = _skip(text, at, ", \t\r\n" if number else " \t\r\n")
            if at < len(text) and text[at] == "]":
                return
            try:
                row, end = decoder.raw_decode(text, at)
                if end == len(text):
                    raise ValueError("the text may go on")
            except (ValueError, RecursionError) as error:
                more = file.read(_CHUNK)
                if not more or len(text) - at > _LONGEST:
                    raise LayoutError(f"{path}: row {number} is not JSON, or the file is cut: {error}") from error
                text, at = text[at:] + more, 0
                continue
            yield _object(row, path, number)
            at, number = end, number + 1
            if at > _CHUNK:
                text, at = text[at:], 0


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; empty lines are passed over. Raises as ``json_array``."""
    with _opened(path) as file:
        for number, line in enumerate(file):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise LayoutError(f"{path}: line {number + 1} is not JSON: {error}") from error
                yield _object(row, path, number)


def table_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table by its file's extension: .csv, .tsv, .jsonl, .json (an array) or .parquet.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: its extension is another, or it cannot be read as what it says.
        ModuleNotFoundError: a .parquet, and pyarrow is not installed.
    """
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        yield from _csv(path, "," if kind == ".csv" else "\t")
    elif kind in (".jsonl", ".jsonlines", ".ndjson"):
        yield from json_lines(path)
    elif kind == ".json":
        yield from json_array(path)
    elif kind == ".parquet":
        yield from _parquet(path)
    else:
        raise LayoutError(f"a table must be .csv, .tsv, .jsonl, .json or .parquet, got {path.name!r}")


def _csv(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    with _opened(path, newline="") as file:
        try:
            yield from csv.DictReader(file, delimiter=delimiter)
        except csv.Error as error:
            raise LayoutError(f"{path} is not a table: {error}") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading .parquet needs pyarrow: pip install 'grainclip[parquet]'") from error
    if not path.is_file():
        raise FileNotFoundError(f"the annotation file {path} does not exist")
    for batch in parquet.ParquetFile(path).iter_batches(1024):
        yield from batch.to_pylist()


def _opened(path: Path, newline: str | None = None) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"the annotation file {path} does not exist")
    return path.open(encoding="utf-8", errors="replace", newline=newline)


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _object(row: object, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise LayoutError(f"{path}: row {number} must be an object, got {row!r:.100}")
    return row
