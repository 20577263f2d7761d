"""Flickr8k's short captions (Hodosh et al., 2013): 1000 test images, or 1000 dev images, with five captions each.

Read from the release, unpacked into one folder or two::

    flickr8k/Flickr8k.token.txt  flickr8k/Flickr_8k.{test,dev}Images.txt
    flickr8k/Flicker8k_Dataset/*.jpg

========================================  =============================================================================
``flickr8k``, ``flickr8k_dev``            5000 captions, as they stand; any of an image's own is right
``flickr8k_joined``, ``..._dev_joined``   an image's five captions as one text of 63 tokens on average, 1000 to 1000
========================================  =============================================================================

The joined captions are mended as ``lightning prepare flickr8k`` mends them, so that each ends by a full stop. The
photographs stand in Flickr30k too: a model that was trained on Flickr30k has seen them.
"""

from __future__ import annotations

from datamodules.formats.flickr_captions import CAPTIONS, LISTS, read_flickr8k
from datamodules.formats.tokenised_captions import plain_sentence
from eval.data.find_file import find_path, first_file
from eval.data.records import file_sha256
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import ImageTexts, gather_files, retrieve

FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Flicker8k_Images", "Images", "images", "")


def flickr8k(model: Model, run: EvalContext) -> Result:
    """The test split, 5000 captions."""
    return _captions("flickr8k", "test", model, run)


def flickr8k_joined(model: Model, run: EvalContext) -> Result:
    """The test split, an image's five captions joined."""
    return _joined("flickr8k_joined", "test", model, run)


def flickr8k_dev(model: Model, run: EvalContext) -> Result:
    """The dev split, 5000 captions."""
    return _captions("flickr8k_dev", "dev", model, run)


def flickr8k_dev_joined(model: Model, run: EvalContext) -> Result:
    """The dev split, an image's five captions joined."""
    return _joined("flickr8k_dev_joined", "dev", model, run)


def _captions(name: str, split: str, model: Model, run: EvalContext) -> Result:
    protocol = f"{split} split, any of an image's own captions is right; published numbers R@1, R@5, R@10"
    return retrieve(name, model, run, _read(run, split), protocol)


def _joined(name: str, split: str, model: Model, run: EvalContext) -> Result:
    data = _read(run, split)
    data.captions = [[" ".join(filter(None, map(plain_sentence, texts)))] for texts in data.captions]
    return retrieve(name, model, run, data, f"{split} split, an image's captions joined to one text, both ways")


def _read(run: EvalContext, split: str) -> ImageTexts:
    folders = ("", "flickr8k/", "Flickr8k/", "Flickr8k_text/", "flickr8k/Flickr8k_text/")
    token = find_path(run.root, *(f"{folder}{CAPTIONS}" for folder in folders))
    bases = dict.fromkeys((token.parent, token.parent.parent, run.root))
    records = [
        (first_file([base / folder / name for base in bases for folder in FOLDERS]), name, captions)
        for name, captions in read_flickr8k(token.parent, split).captions.items()
    ]
    files = [token, listing := token.parent / LISTS[split]]
    return gather_files(records, listing, {file.name: file_sha256(file) for file in files}, run)
