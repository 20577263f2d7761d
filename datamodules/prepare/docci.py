"""DOCCI (Onoe et al., 2024) as shards: 15,000 photographs with captions of 136 words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from datamodules.formats.docci import read_docci
from datamodules.formats.layout import described
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, path_key, write_records
from datamodules.prepare.shard_jobs import Manifest


def prepare_docci(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    split: Literal["train", "test", "qual_dev", "qual_test"] = "train",
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from DOCCI (docci_descriptions.jsonlines). Its images have 12 megapixels: think of `max_side`.

    Args:
        images: the folder of the images.
        annotations: docci_descriptions.jsonlines.
        job: where to, and how.
        split: which of its images.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the file or, without ``skip_missing``, an image is missing.
        LayoutError: it is not laid out as DOCCI's.
        ValueError: a number is out of its range, or no image was left to write.
    """

    def records() -> Iterator[ImageRecord]:
        for image in read_docci(annotations):
            if image.split == split:
                yield ImageRecord(path_key(image.file), image.file, images / image.file, image.description)

    settings = {"annotations": described(annotations), "split": split}
    return write_records(
        records, job, source="docci", settings=settings, listed_in=annotations, skip_missing=skip_missing
    )
