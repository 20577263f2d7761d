"""Any table of image files and captions as shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.formats.layout import PATH, LayoutError, Rule, described
from datamodules.formats.row_readers import EncodingError, table_rows
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, path_key, write_records
from datamodules.prepare.shard_jobs import Manifest


def prepare_table(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    image_column: str = "image",
    caption_column: str = "caption",
    summary_column: str | None = None,
    encoding: str | None = None,
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from a table of image files and captions: .csv, .tsv, .jsonl, .json (an array) or .parquet.

    Args:
        images: the folder in which the table's paths begin.
        annotations: the table.
        job: where to, and how.
        image_column: the column of the images' paths.
        caption_column: the column of the captions.
        summary_column: the column of short captions, where there is one.
        encoding: of the table's text; without it UTF-8, or what its byte order mark says (Excel's plain CSV: cp1252).
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the table or, without ``skip_missing``, an image is missing.
        LayoutError: it cannot be read, a letter is not of its encoding, or a column is missing.
        ModuleNotFoundError: it is a .parquet, and pyarrow is not installed.
        ValueError: a number is out of its range, or no image was left to write.
    """
    columns = {"image": image_column, "caption": caption_column} | (
        {"summary": summary_column} if summary_column else {}
    )

    def records() -> Iterator[ImageRecord]:
        for number, row in enumerate(_rows(annotations, encoding)):
            for column in columns.values():
                if column not in row:
                    raise LayoutError(f"{annotations}: row {number} has no column {column!r}; it has {', '.join(row)}")
            where = f"{annotations}: row {number}'s"
            PATH.check(f"{where} '{image_column}'", row[image_column])
            for column in [caption_column, *filter(None, [summary_column])]:
                _TEXT.check(f"{where} '{column}'", row[column])
            file, summary = row[image_column], row[summary_column] if summary_column else None
            yield ImageRecord(path_key(file), file, images / file, row[caption_column] or "", summary)

    settings = {"annotations": described(annotations), "encoding": encoding, **columns}
    return write_records(
        records, job, source=annotations.stem, settings=settings, listed_in=annotations, skip_missing=skip_missing
    )


_TEXT = Rule("a text, or empty", lambda v: v is None or isinstance(v, str))


def _rows(table: Path, encoding: str | None) -> Iterator[dict[str, Any]]:
    try:
        yield from table_rows(table, encoding)
    except EncodingError as error:
        raise EncodingError(f"{error}, or give its --encoding (Excel's plain CSV: cp1252)") from error
