"""Flickr30k's short captions: Karpathy's 1000 test images, or all 31,783 (Long-CLIP). Five captions each.

Read from the released files::

    dataset_flickr30k.json (or flickr30k_test.json, the list)   flickr30k-images/*.jpg
    results_20130124.token                                      flickr30k-images/*.jpg

The published numbers on the two differ by half: do not compare them. FLAIR's released command evaluates the validation
split, ``flickr30k_val``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from datamodules.formats.flickr_captions import read_captions
from eval.data.find_file import find_path, first_file
from eval.data.records import file_sha256
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import gather_files, retrieve
from eval.protocols.karpathy import read_karpathy

FOLDERS = ("flickr30k-images", "flickr30k_images", "images", "Images", "")
KARPATHY = ("dataset_flickr30k.json", "flickr30k/dataset_flickr30k.json")


def flickr30k(model: Model, run: EvalContext) -> Result:
    """Karpathy's test split, 1000 images."""
    protocol = "Karpathy test, any of an image's own captions is right; published numbers R@1, R@5, R@10"
    return retrieve("flickr30k", model, run, read_karpathy(run, (*KARPATHY, "flickr30k_test.json"), _files), protocol)


def flickr30k_val(model: Model, run: EvalContext) -> Result:
    """Karpathy's validation split, 1014 images, which FLAIR's released command evaluates."""
    protocol = "FLAIR's released command: Karpathy's validation split"
    data = read_karpathy(run, (*KARPATHY, "flickr30k_val.json"), _files, "val")
    return retrieve("flickr30k_val", model, run, data, protocol)


def flickr30k_all(model: Model, run: EvalContext) -> Result:
    """All 31,783 images."""
    path = find_path(run.root, "results_20130124.token", "flickr30k/results_20130124.token")
    records = [(first_file(_files(run.root, None, name)), name, texts) for name, texts in read_captions(path).items()]
    protocol = "Long-CLIP: all images, any of an image's own captions is right; published numbers R@1, R@5, R@10"
    data = gather_files(records, path, {path.name: file_sha256(path)}, run)
    return retrieve("flickr30k_all", model, run, data, protocol)


def _files(root: Path, folder: str | None, filename: str) -> list[Path]:
    name = PurePosixPath(filename).name
    return [base / f / name for base in (root, root / "flickr30k") for f in (*([folder] if folder else []), *FOLDERS)]
