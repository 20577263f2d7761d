"""Any table of image files and captions as shards.

Several rows may name the same image. Contrastive losses take the captions of other samples for wrong answers, so that
each of them would push away the others' captions of its own image: ``join_rows`` makes one sample of them.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.formats.layout import PATH, LayoutError, Rule, described
from datamodules.formats.row_readers import EncodingError, table_rows
from datamodules.formats.tokenised_captions import full_sentence
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, path_key, write_records
from datamodules.prepare.shard_jobs import Manifest
from datamodules.spelling import did_you_mean

logger = logging.getLogger("grainclip")


def prepare_table(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    image_column: str = "image",
    caption_column: str = "caption",
    summary_column: str | None = None,
    encoding: str | None = None,
    skip_missing: bool = False,
    join_rows: bool = False,
    split: Literal["train", "val"] | None = None,
    val_share: float = 0.1,
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
        join_rows: make one sample of all rows that name the same image; the table is then held in memory. Otherwise
            each row is a sample.
        split: write these images only: `val`, a share chosen by a hash of their paths, or `train`, the others; without
            it all images.
        val_share: the share of `val`.

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
    if not 0 < val_share < 1:
        raise ValueError(f"val_share must be above 0 and below 1, got {val_share}")
    if split not in (None, "train", "val"):
        raise ValueError(f"split must be train or val, got {split!r}")
    table = _Table(images, annotations, encoding, columns, join_rows, split, val_share)
    settings = {"annotations": described(annotations), "encoding": encoding, "join_rows": join_rows, **columns}
    if split is not None:
        settings |= {"split": split, "val_share": val_share}
    try:
        manifest = write_records(
            table.records, job,
            source=annotations.stem, settings=settings, listed_in=annotations, skip_missing=skip_missing,
        )  # fmt: skip
    except ValueError as error:
        if table.wanted or not table.unwanted:
            raise
        share = f"--split {split} with --val_share {val_share}"
        raise ValueError(f"{share} takes none of the {table.unwanted} rows of {annotations}") from error
    if table.repeated:
        logger.warning(
            "rows that name the image of an earlier row: %s; each is a sample of its own, and training takes their "
            "captions for wrong answers to each other; --join_rows true makes one sample of them",
            table.repeated,
        )
    return manifest


@dataclass
class _Table:
    """The rows of a table as images with captions, and the number of rows of its split, of the other one, and of those
    that are samples of an image that an earlier sample shows.
    """

    images: Path
    annotations: Path
    encoding: str | None
    columns: Mapping[str, str]
    join_rows: bool
    split: str | None
    val_share: float
    wanted: int = 0
    unwanted: int = 0
    repeated: int = 0

    def records(self) -> Iterator[ImageRecord]:
        """Read the table, and count anew."""
        self.wanted = self.unwanted = self.repeated = 0
        of_image: dict[str, list[dict[str, Any]]] = {}
        seen: set[int] = set()
        for row in checked_rows(self.annotations, self.encoding, self.columns):
            file = row[self.columns["image"]]
            if self.split is not None and self.split != _split_of(file, self.val_share):
                self.unwanted += 1
                continue
            self.wanted += 1
            if self.join_rows:
                of_image.setdefault(file, []).append(row)
                continue
            self.repeated += hash(file) in seen
            seen.add(hash(file))
            yield _record([row], self.images, self.columns)
        for rows in of_image.values():
            yield _record(rows, self.images, self.columns)


def _split_of(file: str, val_share: float) -> Literal["train", "val"]:
    """The split of an image, by its path alone: the same for all its rows, in any order and in longer tables."""
    return "val" if zlib.crc32(file.encode()) < val_share * 2**32 else "train"


_TEXT = Rule("a text, or empty", lambda v: v is None or isinstance(v, str))


def checked_rows(
    table: Path, encoding: str | None, columns: Mapping[str, str], flags: str = "--"
) -> Iterator[dict[str, Any]]:
    """The rows, each with ``columns``, by what they hold ("image", "caption", "summary"), of the right type.

    ``flags`` is how the settings of the columns' names begin. Raises ``LayoutError`` as ``prepare_table``.
    """
    for number, row in enumerate(_rows(table, encoding)):
        for content, column in columns.items():
            if column not in row:
                names = ", ".join(f"{name:.30}" for name in row)
                raise LayoutError(
                    f"{table}: row {number} has no column {column!r}; it has {names:.60} "
                    f"({flags}{content}_column names it{did_you_mean(column, row)})"
                )
            rule = PATH if content == "image" else _TEXT
            rule.check(f"{table}: row {number}'s '{column}'", row[column])
        yield row


def join_captions(texts: Sequence[str]) -> str:
    """The captions of an image as one: each a paragraph, a full sentence; a single one as it stands."""
    return texts[0] if len(texts) == 1 else "\n\n".join(full_sentence(text.strip()) for text in texts)


def _record(rows: list[dict[str, Any]], images: Path, columns: Mapping[str, str]) -> ImageRecord:
    """One image from its rows: each text a paragraph of the caption, the first summary that is not empty."""
    file, texts = rows[0][columns["image"]], [row[columns["caption"]] or "" for row in rows]
    summaries = [row[columns["summary"]] for row in rows] if "summary" in columns else []
    return ImageRecord(path_key(file), file, images / file, join_captions(texts), next(filter(None, summaries), None))


def _rows(table: Path, encoding: str | None) -> Iterator[dict[str, Any]]:
    try:
        yield from table_rows(table, encoding)
    except EncodingError as error:
        raise EncodingError(f"{error}, or give its --encoding (Excel's plain CSV: cp1252)") from error
