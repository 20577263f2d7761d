"""Grains for tars that a user has: WebDataset's or img2dataset's, a caption in KEY.txt or in KEY.json.

Each tar becomes one new shard, and stays itself as it is: a sample's grains belong beside its image, since both are
read at once. The images' bytes go over unchanged, unless a maximal side is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from datamodules.formats.layout import described
from datamodules.prepare.images import sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, to_sample
from datamodules.prepare.rejected import LeftOut, Rejects
from datamodules.prepare.shard_jobs import Manifest, Unit, write_units
from datamodules.prepare.tar_reader import read_members
from datamodules.sample import Sample
from datamodules.shards.discovery import ShardError, expand_shards, is_remote
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
        caption_field: where the caption stands in KEY.json; KEY.txt is taken where it is not there.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        ShardError: there is nothing to read, or a tar is damaged.
        ValueError: a number is out of its range, or no image was left to write.
    """
    job.finder.require()
    urls = expand_shards(data)
    if remote := [url for url in urls if is_remote(url)]:
        raise ShardError(f"only local tars can be prepared, got {remote[0]}")
    units = (Unit(number, url) for number, url in enumerate(urls))
    to_samples = partial(samples_of_tar, caption_field=caption_field, job=job)
    settings = {"tars": [described(Path(url)) for url in urls], "caption_field": caption_field}
    return write_units(units, to_samples, job, source="tars", settings=settings)


def samples_of_tar(url: str, rejects: Rejects, *, caption_field: str, job: PrepareJob) -> Iterator[Sample]:
    """The samples of one tar. What cannot be one is counted. Raises ``ShardError`` where the tar is damaged."""
    for key, members in read_members(url, ("json", "txt"), rejects):
        try:
            caption = _caption(members, caption_field)
            if IMAGE not in members:
                raise LeftOut("image missing")
            record = ImageRecord(sample_key(key), f"{url}, {key}", Path(key), caption)
            yield to_sample(record, members[IMAGE], rejects, source="tars", job=job)
        except LeftOut as left:
            rejects.add(left.reason, f"{url}, {key}")


def _caption(members: dict[str, bytes], field: str) -> str:
    try:
        record = json.loads(members.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise LeftOut("json unreadable") from error
    caption = record.get(field) if isinstance(record, dict) else None
    if not isinstance(caption, str) and "txt" in members:
        try:
            caption = members["txt"].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise LeftOut("caption not UTF-8") from error
    if not isinstance(caption, str):
        raise LeftOut("no caption")
    return caption
