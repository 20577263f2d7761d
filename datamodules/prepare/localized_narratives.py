"""Localized Narratives (Pont-Tuset et al., 2020) as shards: what annotators said while pointing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datamodules.formats.layout import ID, NAME, PATH, described
from datamodules.formats.row_readers import json_lines
from datamodules.prepare.images import sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, write_records
from datamodules.prepare.shard_jobs import Manifest


def prepare_localized_narratives(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from Localized Narratives' JSON lines; each narrative of an image is a sample.

    Args:
        images: the folder of the images: IMAGE_ID.jpg, with twelve digits for COCO's.
        annotations: the JSON lines, such as coco_train_localized_narratives-00000-of-00004.jsonl.
        job: where to, and how.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the file or, without ``skip_missing``, an image is missing.
        LayoutError: it is not laid out as Localized Narratives'.
        ValueError: a number is out of its range, or no image was left to write.
    """

    def records() -> Iterator[ImageRecord]:
        for number, row in enumerate(json_lines(annotations)):
            where = f"{annotations}: line {number + 1}'s"
            for field, rule in {"image_id": ID, "caption": NAME}.items():
                rule.check(f"{where} '{field}'", row.get(field))
            name = str(row["image_id"])
            if str(row.get("dataset_id", "")).startswith("mscoco") and name.isdecimal():
                name = f"{int(name):012d}"
            PATH.check(f"{where} 'image_id'", name)
            key = sample_key(f"{name}-{row.get('annotator_id', 0)}")
            yield ImageRecord(key, name, images / f"{name}.jpg", row["caption"])

    settings = {"annotations": described(annotations)}
    return write_records(
        records, job, source="localized_narratives", settings=settings, listed_in=annotations, skip_missing=skip_missing
    )
