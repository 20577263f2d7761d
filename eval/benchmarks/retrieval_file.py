"""``retrieval:FILE``: retrieval on any table of images and captions.

A JSON list, JSON Lines, CSV, TSV or Parquet; a record names an image and its caption, or a list of captions. Records of
the same image are joined. Fields may have the names of known releases: GOAL's ``filename``, Long-DCI's ``filepath`` and
``title``, nlphuji's ``raw``. Images are searched beside the table, then below ``root``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typing_extensions import override

from datamodules.formats.layout import NAME, PATH, Rule, checked
from datamodules.formats.row_readers import TABLES
from eval.data.find_file import first_file, user_file
from eval.data.records import Records, read_records
from eval.interfaces import EvalContext, Model, PathBenchmark, Result
from eval.protocols.image_text_retrieval import LONG_KS, ImageTexts, gather_files, retrieve

IMAGES = ("image", "file", "filename", "filepath", "file_name", "image_path", "path")
CAPTIONS = ("caption", "captions", "title", "raw", "text", "description")
TEXTS = Rule(
    "a text or a list of texts",
    lambda v: NAME.holds(v) or (isinstance(v, list) and bool(v) and all(map(NAME.holds, v))),
)
FOLDERS = ("", "images", "image", "photos")


class RetrievalFile(PathBenchmark):
    """The benchmark of one file, under the current folder, under ``root``, or anywhere."""

    kind = "retrieval"

    @property
    @override
    def head(self) -> str:
        """With the file's name without its ending."""
        return f"{self.kind}:{Path(self.path).stem}"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """Both directions; any caption of an image is right."""
        protocol = "any of an image's own captions is right, both ways"
        return retrieve(self.head, model, run, read_table(run, self.path), protocol, LONG_KS)


def read_table(run: EvalContext, file: str) -> ImageTexts:
    """Images and captions of a file under the current folder, under ``run.root``, or anywhere.

    Raises:
        FileNotFoundError: the file or, unless they may be left out, an image is missing.
        ValueError: naming file, record, field and rule.
    """
    table = user_file(run.root, file)
    if table.suffix.lower() not in TABLES:
        raise ValueError(f"{table} must be one of {', '.join(TABLES)}")
    records = read_records(table, {})
    image, caption = (_field(records, known) for known in (IMAGES, CAPTIONS))
    captions: dict[str, list[str]] = {}
    rows = [row | {caption: _parse_list(row[caption])} for row in records.rows if row.get(caption) is not None]
    for row in checked(records.path, "records", rows, {image: PATH, caption: TEXTS}):
        texts = row[caption] if isinstance(row[caption], list) else [row[caption]]
        captions.setdefault(row[image], []).extend(texts)
    bases = (records.path.parent, run.root)
    entries = [
        (first_file([base / f / name for base in bases for f in FOLDERS]), name, texts)
        for name, texts in captions.items()
    ]
    data = gather_files(entries, records.path, records.files, run)
    if len(rows) < len(records.rows):
        data.counts["record without a caption"] += len(records.rows) - len(rows)
    return data


def _field(records: Records, accepted: tuple[str, ...]) -> str:
    fields = [name for name in accepted if name in records.rows[0]]
    if len(fields) != 1:
        names = ", ".join(records.rows[0])
        raise ValueError(f"{records.path} must have one of the fields {', '.join(accepted)}, got {names}")
    return fields[0]


def _parse_list(value: Any) -> Any:
    """Parse a cell that holds a list of captions as JSON."""
    if isinstance(value, str) and value.startswith('["'):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
