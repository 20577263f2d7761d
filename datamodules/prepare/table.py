"""Any table of image files and captions as shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.extractors import ExtractorName, extractor_named
from datamodules.prepare.layout import PATH, LayoutError, described
from datamodules.prepare.records import Record, path_key, write_records
from datamodules.prepare.streams import table_rows
from datamodules.prepare.units import Scale


def prepare_table(
    images: Path,
    annotations: Path,
    out: Path,
    image_column: str = "image",
    caption_column: str = "caption",
    summary_column: str | None = None,
    max_side: int | None = None,
    scale: Scale = Scale(),
    extractor: ExtractorName = "nltk",
    spacy_model: str = "en_core_web_sm",
) -> dict[str, Any] | None:
    """Write shards from a table of image files and captions: .csv, .tsv, .jsonl, .json (an array) or .parquet.

    Args:
        images: the folder in which the table's paths begin.
        annotations: the table.
        out: the folder to write to.
        image_column: the column of the images' paths.
        caption_column: the column of the captions.
        summary_column: the column of short captions, where there is one.
        max_side: pictures with a longer side, in pixels, are made smaller.
        scale: processes, part of a job array, images of a shard.
        extractor: who finds sentences and phrases: NLTK, rules that need no data, or spaCy.
        spacy_model: the pipeline of `--extractor spacy`, a name or a folder.

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
    return write_records(
        records(),
        out,
        source=annotations.stem,
        settings=settings,
        max_side=max_side,
        scale=scale,
        extractor=extractor_named(extractor, spacy_model),
    )
