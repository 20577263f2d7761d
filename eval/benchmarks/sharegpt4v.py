"""ShareGPT4V-1k and -10k (Long-CLIP; LoTLIP): the first 1000 and 10,000 of its released captions, all of SA-1B.

Read from the start of the released list, and from SA-1B's images::

    share-captioner_coco_lcs_sam_1246k_1107.json  sam/images/sa_*.jpg

Long-CLIP's training holds out the first 1000 only: for models trained so, the 10k contain training data. β-CLIP's 1000
are the first of a filtered list, not these.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path, PurePosixPath

from datamodules.formats.layout import NAME
from datamodules.formats.sharegpt4v import read_sharegpt4v
from eval.data.cache import digest
from eval.data.caption_preprocessing import one_line
from eval.data.find_file import find_path, first_file
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import LONG_KS, gather_files, retrieve

FILE = "share-captioner_coco_lcs_sam_1246k_1107.json"
FOLDERS = ("", "sam/images", "images", "ShareGPT4V", "ShareGPT4V/data", "ShareGPT4V/data/sam/images")


def sharegpt4v_1k(model: Model, run: EvalContext) -> Result:
    """The first 1000 pairs."""
    return _first("sharegpt4v_1k", 1000, model, run)


def sharegpt4v_10k(model: Model, run: EvalContext) -> Result:
    """The first 10,000 pairs."""
    return _first("sharegpt4v_10k", 10_000, model, run)


def _first(name: str, count: int, model: Model, run: EvalContext) -> Result:
    path = find_path(run.root, FILE, f"ShareGPT4V/{FILE}", f"share4v/{FILE}")
    images = list(islice(read_sharegpt4v(path), count))
    if len(images) < count:
        raise ValueError(f"{path} must hold at least {count} records, got {len(images)}")
    for index, image in enumerate(images):
        NAME.check(f"{path}: the caption of row {index}", image.caption)
    records = [(_image(run.root, image.file), image.file, [image.caption]) for image in images]
    checksum = digest(part for image in images for part in image)
    data = gather_files(records, path, {f"{path.name}[:{count}]": checksum}, run)
    protocol = f"Long-CLIP: the first {count} of the released list, both ways; published number R@1"
    return retrieve(name, model, run, data, protocol, LONG_KS, one_line)


def _image(root: Path, image: str) -> Path:
    """The file under ``root``, at its path or by its name alone."""
    name = PurePosixPath(image).name
    return first_file([root / folder / part for part in (image, name) for folder in FOLDERS])
