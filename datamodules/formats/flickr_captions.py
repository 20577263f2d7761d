"""Flickr8k's and Flickr30k's caption files, ``NAME#N``, a tab and a caption a line, and Flickr8k's lists of splits.

Flickr8k (Hodosh et al., 2013) is a folder of 8,091 images, ``Flickr8k.token.txt`` with five captions of 8,092 names (of
``2258277193_586949ec62.jpg.1`` there is no image), and three lists, which hold 8,000 of the names. Flickr30k's
``results_20130124.token`` is laid out alike. Captions are returned as they stand, tokenised ("A dog runs .").
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from datamodules.formats.layout import PATH, LayoutError, text_lines

CAPTIONS = "Flickr8k.token.txt"
LISTS = {split: f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test")}


class Flickr8kSplit(NamedTuple):
    """The captions of each image of a split, by file name; the same of images that no list names."""

    captions: dict[str, list[str]]
    unlisted: dict[str, list[str]]


def read_flickr8k(folder: Path, split: str) -> Flickr8kSplit:
    """The images of a split ("train", "dev" or "test") in their list's order. A listed name may have no caption.

    Of the other two lists those are read that exist.

    Raises:
        FileNotFoundError: the captions or the split's list is missing.
        LayoutError: a file is not laid out as the release's, or two lists name the same image.
    """
    split_of: dict[str, str] = {}
    for name, file in LISTS.items():
        path = folder / file
        for image in read_image_names(path) if name == split or path.exists() else ():
            if image in split_of:
                raise LayoutError(
                    f"{path}: an image must be of one split, got {image!r}, which {LISTS[split_of[image]]} lists too"
                )
            split_of[image] = name
    captions = read_captions(folder / CAPTIONS)
    of_split = {image: captions.get(image, []) for image, name in split_of.items() if name == split}
    return Flickr8kSplit(of_split, {image: texts for image, texts in captions.items() if image not in split_of})


def read_captions(path: Path) -> dict[str, list[str]]:
    """The captions of each file name, verbatim, in the file's order. Later tabs of a line belong to its caption.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: a line is no ``NAME#N``, tab and caption, or not UTF-8; a ``NAME#N`` stands twice; there is none.
    """
    captions: dict[str, dict[str, str]] = {}
    for line_number, line in text_lines(path):
        head, tab, caption = line.partition("\t")
        name, mark, number = head.rpartition("#")
        if not (tab and mark and PATH.holds(name) and number.isdecimal() and caption.strip()):
            raise LayoutError(f"{path}: line {line_number} must be NAME#N, a tab and a caption, got {line!r:.80}")
        if number in captions.setdefault(name, {}):
            raise LayoutError(f"{path}: each caption must stand once, got {head!r} again in line {line_number}")
        captions[name][number] = caption
    if not captions:
        raise LayoutError(f"{path} must hold captions, got none")
    return {name: list(texts.values()) for name, texts in captions.items()}


def read_image_names(path: Path) -> list[str]:
    """The file names of a list of images, one a line.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: a line is no name of a file, or stands twice, or there is none.
    """
    names: dict[str, None] = {}
    for number, line in text_lines(path):
        PATH.check(f"{path}: line {number}", line)
        if line in names:
            raise LayoutError(f"{path}: names must differ, got {line!r} again in line {number}")
        names[line] = None
    if not names:
        raise LayoutError(f"{path} must list images, got none")
    return list(names)
