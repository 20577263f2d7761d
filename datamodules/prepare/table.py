"""Any table of image files and captions as shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datamodules.prepare.job import Job
from datamodules.prepare.layout import PATH, LayoutError, described
from datamodules.prepare.records import Record, path_key, write_records
from datamodules.prepare.streams import table_rows
from datamodules.prepare.units import Manifest


def prepare_table(
    images: Path,
    annotations: Path,
    job: Job,
    image_column: str = "image",
    caption_column: str = "caption",
    summary_column: str | None = None,
) -> Manifest | None:
    """Write shards from a table of image files and captions: .csv, .tsv, .jsonl, .json (an array) or .parquet.

    Args:
        images: the folder in which the table's paths begin.
        annotations: the table.
        job: where to, and how.
        image_column: the column of the images' paths.
        caption_column: the column of the captions.
        summary_column: the column of short captions, where there is one.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the table is missing.
        LayoutError: it cannot be read, or a column is missing.
        ModuleNotFoundError: it is a .parquet, and pyarrow is not installed.
        ValueError: a number is out of its range, or no image was left to write.
    """
    columns = {"image": image_column, "caption": caption_column} | (
        {"summary": summary_column} if summary_column else {}
    )

    def records() -> Iterator[Record]:
        for number, row in enumerate(table_rows(annotations)):
            for name in columns.values():
                if name not in row:
                    raise LayoutError(f"{annotations}: row {number} has no column {name!r}; it has {list(row)}")
            PATH.check(f"{annotations}: row {number}'s '{image_column}'", row[image_column])
            file, caption = row[image_column], row[caption_column]
            summary = row[summary_column] if summary_column else None
            yield Record(path_key(file), file, images / file, str(caption or ""), summary and str(summary))

    settings = {"annotations": described(annotations), **columns}
    return write_records(records(), job, source=annotations.stem, settings=settings)
