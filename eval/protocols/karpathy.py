"""Retrieval by Karpathy's splits of COCO and Flickr30k."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datamodules.formats import karpathy
from datamodules.formats.layout import NAME
from eval.data.find_file import find_path, first_file
from eval.interfaces import EvalContext
from eval.protocols.image_text_retrieval import ImageTexts, gather_files


def read_karpathy(
    run: EvalContext,
    names: tuple[str, ...],
    files_of: Callable[[Path, str | None, str], list[Path]],
    split: str = "test",
) -> ImageTexts:
    """The images of ``split`` with all their captions, verbatim.

    Args:
        names: possible names of the file; the first that exists is read.
        files_of: possible paths of an image, given the root, the folder that the file states (or None) and the file
        name.
    """
    path = find_path(run.root, *names)
    images, checksum = karpathy.read_karpathy(path)
    chosen = [image for image in images if image.split in (split, None)]
    if not chosen:
        raise ValueError(f"{path} must hold images of the split {split!r}, got none")
    for image in chosen:
        for caption in image.captions:
            NAME.check(f"{path}: each caption of {image.file}", caption)
    records = [(first_file(files_of(run.root, i.folder, i.file)), i.file, i.captions) for i in chosen]
    return gather_files(records, path, {path.name: checksum}, run)
