"""ShareGPT4V (Chen et al., 2023) as shards: 1.2 million long captions of COCO, LLaVA and SAM images.

The file of 1.5 GB is read as a stream. Its first 1,000 records are the evaluation set SV-1k and stay out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from datamodules.formats.layout import described
from datamodules.formats.sharegpt4v import read_sharegpt4v
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, path_key, write_records
from datamodules.prepare.shard_jobs import Manifest


def prepare_sharegpt4v(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    held_out: int = 1000,
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from ShareGPT4V's captions (share-captioner_coco_lcs_sam_1246k_1107.json), read as a stream.

    Args:
        images: the folder in which the file's `image` paths begin (with coco/, llava/, sam/).
        annotations: the JSON file.
        job: where to, and how.
        held_out: number of first records that are left out, with all other records of their images: 1000 is SV-1k.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the file or, without ``skip_missing``, an image is missing.
        LayoutError: it is not laid out as ShareGPT4V's.
        ValueError: a number is out of its range, or no image was left to write.
    """
    if held_out < 0:
        raise ValueError(f"held_out must be 0 or more, got {held_out}")
    records = partial(_sharegpt4v, images, annotations, held_out)
    settings = {"annotations": described(annotations), "held_out": held_out}
    return write_records(
        records, job, source="sharegpt4v", settings=settings, listed_in=annotations, skip_missing=skip_missing
    )


def _sharegpt4v(images: Path, annotations: Path, held_out: int) -> Iterator[ImageRecord]:
    held_out_files: set[str] = set()
    for number, (file, caption) in enumerate(read_sharegpt4v(annotations)):
        if number < held_out:
            held_out_files.add(file)
        elif file not in held_out_files:
            yield ImageRecord(path_key(file), file, images / file, caption)
