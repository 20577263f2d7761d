"""Densely Captioned Images (Urbanek et al., 2023) as shards: long captions, and a box for every mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from datamodules.formats.dci import read_dci, read_dci_split
from datamodules.formats.layout import NAME, described_folder
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, RecordBox, path_key, write_records
from datamodules.prepare.shard_jobs import Manifest


def prepare_dci(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    splits: Path | None = None,
    split: Literal["train", "valid", "test"] = "train",
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from Densely Captioned Images: short and extra caption, the masks' bounds as regions.

    The short caption is the summary and the caption's beginning. Masks of unusable quality are left out.

    Args:
        images: the folder of the images (photos/).
        annotations: the folder of the JSON files, one an image (annotations/ or complete/).
        job: where to, and how.
        splits: splits.json; without it all images are taken.
        split: which of its images.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: a file or, without ``skip_missing``, an image is missing.
        LayoutError: one is not laid out as DCI's.
        ValueError: a number is out of its range, or no image was left to write.
    """
    files = sorted(annotations.glob("*.json"))
    if splits is not None:
        names = set(read_dci_split(splits, split))
        files = [file for file in files if file.name in names]
    if not files:
        raise FileNotFoundError(f"{annotations} holds no JSON file of the requested images")
    settings = {"annotations": described_folder(annotations, files), "split": split if splits else None}

    def records() -> Iterator[ImageRecord]:
        return (_dci(images, file) for file in files)

    return write_records(
        records, job, source="dci", settings=settings, listed_in=annotations, skip_missing=skip_missing
    )


def _dci(images: Path, file: Path) -> ImageRecord:
    image, _ = read_dci(file)
    NAME.check(f"{file}: 'short_caption'", image.short_caption)
    caption = f"{image.short_caption}\n\n{image.extra_caption}"
    boxes = [RecordBox(corners, label) for corners, label in image.masks]
    return ImageRecord(path_key(image.file), file.name, images / image.file, caption, image.short_caption, boxes)
