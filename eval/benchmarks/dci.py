"""Densely Captioned Images (Urbanek et al., CVPR 2024): papers use four protocols, which differ by fifteen points.

Read from the release, a file an image::

    densely_captioned_images/annotations/WHOLE-data.json  densely_captioned_images/splits.json
    densely_captioned_images/photos/sa_*.jpg

======================  ==========================================================================================
``dci``                 all 7805, short and extra caption, the splits in the order train, valid, test (LoTLIP, FLAIR)
``dci_extra``           all files, the extra caption alone, which is empty for 203 of them (FG-CLIP)
``dci_long``            files with an extra caption, 7602 (FAST-GOAL)
======================  ==========================================================================================

GOAL's and MulCLIP's random 1999 are a file of their own, which ``retrieval:FILE`` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datamodules.formats.dci import DciImage, read_dci, read_dci_split
from eval.data.cache import digest
from eval.data.caption_preprocessing import Wording, lotlip, raw
from eval.data.find_file import find_path, first_file
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import LONG_KS, gather_files, retrieve

SPLITS = ("train", "valid", "test")


def dci(model: Model, run: EvalContext) -> Result:
    """LoTLIP's 7805: short and extra caption."""
    protocol = "LoTLIP: splits train + valid + test, short and extra caption; published number R@1"
    return _retrieve("dci", model, run, _of_splits, lambda i: f"{i.short_caption}\n{i.extra_caption}", lotlip, protocol)


def dci_extra(model: Model, run: EvalContext) -> Result:
    """FG-CLIP's: every file, extra caption alone, empty or not."""
    protocol = "FG-CLIP: every file of annotations, extra caption alone, empty ones kept; published number R@1"
    return _retrieve("dci_extra", model, run, _of_folder, lambda i: i.extra_caption, raw, protocol)


def dci_long(model: Model, run: EvalContext) -> Result:
    """FAST-GOAL's: the files that have an extra caption."""
    protocol = "FAST-GOAL: those with an extra caption, which is the text"
    return _retrieve("dci_long", model, run, _of_folder, _filled_extra, raw, protocol)


def _retrieve(
    name: str,
    model: Model,
    run: EvalContext,
    list_files: Callable[[Path], list[Path]],
    text: Callable[[DciImage], str | None],
    wording: Wording,
    protocol: str,
) -> Result:
    folder = find_path(run.root, "densely_captioned_images/annotations", "dci/annotations", "annotations")
    images, checksums = [], []
    for file in run.track(list_files(folder), f"{name}: annotations"):
        image, checksum = read_dci(file)
        images.append(image)
        checksums.append(f"{file.name} {checksum}")
    chosen = [(image.file, caption) for image in images if (caption := text(image)) is not None]
    photos = (folder.parent / "photos", folder.parent / "images")
    records = [(first_file([p / file for p in photos]), file, [caption]) for file, caption in chosen]
    data = gather_files(records, folder, {"annotations/*.json": digest(checksums)}, run)
    if len(chosen) < len(images):
        data.counts["image without an extra caption"] += len(images) - len(chosen)
    return retrieve(name, model, run, data, protocol, LONG_KS, wording)


def _filled_extra(image: DciImage) -> str | None:
    return image.extra_caption if image.extra_caption.strip() else None


def _of_folder(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} must hold annotations WHOLE-data.json, got none")
    return files


def _of_splits(folder: Path) -> list[Path]:
    path = find_path(folder.parent, "splits.json")
    return [folder / file for split in SPLITS for file in read_dci_split(path, split)]
