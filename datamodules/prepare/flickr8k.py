"""Flickr8k (Hodosh et al., 2013) as shards: 8,000 photographs, five captions each, in the release's three splits.

An image's captions are joined into one text whose sentences they are; the first is the summary. The release's captions
are tokenised ("A child 's toy ."): the tokeniser's spaces are taken out, and a comma at the end; a full stop is added
where no mark ends the caption. Letters keep their case, and misspelt words stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from datamodules.formats.flickr_captions import CAPTIONS, LISTS, read_flickr8k
from datamodules.formats.layout import described
from datamodules.formats.tokenised_captions import plain_sentence
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.records import ImageRecord, path_key, write_records
from datamodules.prepare.rejected import Rejects
from datamodules.prepare.shard_jobs import Manifest


def prepare_flickr8k(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    split: Literal["train", "dev", "test"] = "train",
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from the Flickr8k release. Flickr30k holds the same photographs: measure on one, train on the other.

    Captions of images that no list names, 460 in the release, are left out and counted.

    Args:
        images: the folder of the images (Flicker8k_Dataset/, as the release spells it).
        annotations: the folder of Flickr8k.token.txt and the lists Flickr_8k.trainImages.txt, .dev and .test.
        job: where to, and how.
        split: which of its images.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: a file of the release or, without ``skip_missing``, an image is missing.
        LayoutError: a file is not laid out as the release's.
        ValueError: a number is out of its range, or no image was left to write.
    """
    listed_in = annotations / LISTS[split]
    settings = {"captions": described(annotations / CAPTIONS), "list": described(listed_in), "split": split}
    data, rejects = read_flickr8k(annotations, split), Rejects()
    for name, texts in data.unlisted.items():
        for number in range(len(texts)):
            rejects.add("caption of an image in no list", f"{name}#{number}")

    def records() -> Iterator[ImageRecord]:
        for name, captions in data.captions.items():
            sentences = [plain_sentence(caption) for caption in captions]
            summary = next(filter(None, sentences), None)
            yield ImageRecord(path_key(name), name, images / name, sentences, summary)

    return write_records(
        records,
        job,
        source="flickr8k",
        settings=settings,
        listed_in=listed_in,
        skip_missing=skip_missing,
        rejects=rejects,
    )
