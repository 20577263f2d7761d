"""ImageInWords (Garg et al., 2024) as shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datamodules.formats.imageinwords import other_name, read_imageinwords
from datamodules.formats.layout import described
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, path_key, write_records
from datamodules.prepare.shard_jobs import Manifest


def prepare_imageinwords(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from ImageInWords (data.jsonl of IIW-400, DCI_Test or DOCCI_Test).

    Args:
        images: the folder of the images.
        annotations: data.jsonl.
        job: where to, and how.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the file or, without ``skip_missing``, an image is missing.
        LayoutError: it is not laid out as ImageInWords'.
        ValueError: a number is out of its range, or no image was left to write.
    """

    def records() -> Iterator[ImageRecord]:
        for file, caption in read_imageinwords(annotations):
            image, renamed = images / file, images / other_name(file)
            yield ImageRecord(
                path_key(file), file, image if image.is_file() or not renamed.is_file() else renamed, caption
            )

    settings = {"annotations": described(annotations)}
    return write_records(
        records, job, source="imageinwords", settings=settings, listed_in=annotations, skip_missing=skip_missing
    )
