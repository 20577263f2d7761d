"""A user's tars with captions as shards: WebDataset's or img2dataset's, a caption in KEY.txt or in KEY.json.

Each tar gives one new shard, with the images' own bytes unless ``max_side`` is set: a sample's grains belong beside its
image, since both are read at once. The old tar stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from datamodules.formats.layout import described_tar
from datamodules.prepare.images import sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, to_sample
from datamodules.prepare.rejected import IMAGE_MISSING, Rejected, Rejects
from datamodules.prepare.shard_jobs import Manifest, write_units
from datamodules.prepare.tar_reader import read_members
from datamodules.sample import Sample
from datamodules.shards.discovery import expand_local_shards
from datamodules.shards.tar_members import IMAGE


def prepare_tars(
    data: str,
    job: PrepareJob,
    caption_field: str = "caption",
) -> Manifest | None:
    """Write shards with grains from tars with captions. One shard a tar: `samples_per_shard` has no meaning here.

    Args:
        data: a tar, a folder of tars, a glob or braces.
        job: where to, and how.
        caption_field: the field of KEY.json that holds the caption; KEY.txt is taken where the field is missing.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        ShardError: there is nothing to read, or a tar is damaged.
        ValueError: a number is out of its range, or no image was left to write.
    """
    job.text_extractor.require()
    tars = expand_local_shards(data, "prepared")
    to_samples = partial(samples_of_tar, caption_field=caption_field, job=job)
    settings = {"tars": [described_tar(Path(tar)) for tar in tars], "caption_field": caption_field}
    return write_units(tars, to_samples, job, source="tars", settings=settings)


def samples_of_tar(tar: str, rejects: Rejects, *, caption_field: str, job: PrepareJob) -> Iterator[Sample]:
    """The samples of one tar. Members that give none are counted. Raises ``ShardError`` where the tar is damaged."""
    for key, members in read_members(tar, ("json", "txt"), rejects):
        try:
            caption = _caption(members, caption_field)
            if IMAGE not in members:
                raise Rejected(IMAGE_MISSING)
            record = ImageRecord(sample_key(key), f"{tar}, {key}", Path(key), caption)
            yield to_sample(record, members[IMAGE], rejects, source="tars", job=job)
        except Rejected as error:
            rejects.add(error.reason, f"{tar}, {key}")


def _caption(members: dict[str, bytes], field: str) -> str:
    try:
        record = json.loads(members.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise Rejected("json unreadable") from error
    caption = record.get(field) if isinstance(record, dict) else None
    if not isinstance(caption, str) and "txt" in members:
        try:
            caption = members["txt"].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Rejected("caption not UTF-8") from error
    if not isinstance(caption, str):
        raise Rejected("no caption")
    return caption
