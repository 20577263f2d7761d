"""Retrieval by Karpathy's splits of COCO and Flickr30k."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datamodules.formats import karpathy
from datamodules.formats.layout import NAME
from eval.data.find_file import first_there, place
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
        names: of the file, in the order they are looked for.
        files_of: where an image may be, from the root, its folder as the file tells it (or None) and its file's name.
    """
    path = place(run.root, *names)
    images, checksum = karpathy.read_karpathy(path)
    chosen = [image for image in images if image.split in (split, None)]
    if not chosen:
        raise ValueError(f"{path} must hold images of the split {split!r}, got none")
    for image in chosen:
        for caption in image.captions:
            NAME.check(f"{path}: each caption of {image.file}", caption)
    named = [(first_there(files_of(run.root, one.folder, one.file)), one.file, one.captions) for one in chosen]
    return gather_files(named, path, {path.name: checksum}, run)
