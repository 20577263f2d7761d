"""Densely Captioned Images (Urbanek et al., CVPR 2024): four protocols in use that differ by fifteen points.

Read from the release, a file a picture::

    densely_captioned_images/annotations/ID-data.json  densely_captioned_images/splits.json
    densely_captioned_images/photos/sa_*.jpg

======================  ==========================================================================================
``dci``                 all 7805, short and extra caption, the splits in the order train, valid, test (LoTLIP, FLAIR)
``dci_extra``           all files, the extra caption alone, which is empty for 203 of them (FG-CLIP)
``dci_long``            those with an extra caption, 7602 (FAST-GOAL)
======================  ==========================================================================================

GOAL's and MulCLIP's random 1999 are a file of their own: ``retrieval:FILE`` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from eval.data.annotations import PATH, Rule, checked
from eval.data.cache import digest
from eval.data.caption_preprocessing import Wording, lotlip, raw
from eval.data.find_file import first_there, place
from eval.data.records import read_json
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import LONG_KS, gather_files, retrieve

TEXT = Rule("a text", lambda v: isinstance(v, str))
FIELDS = {"image": PATH, "short_caption": TEXT, "extra_caption": TEXT}
SPLITS = ("train", "valid", "test")


class Record(NamedTuple):
    """A picture's file and its two captions."""

    image: str
    short: str
    extra: str


def dci(model: Model, run: EvalContext) -> Result:
    """LoTLIP's 7805: short and extra caption."""
    words = "LoTLIP: splits train + valid + test, short and extra caption; published number R@1"
    return _retrieve("dci", model, run, _of_splits, lambda r: f"{r.short}\n{r.extra}", lotlip, words)


def dci_extra(model: Model, run: EvalContext) -> Result:
    """FG-CLIP's: every file, extra caption alone, empty or not."""
    words = "FG-CLIP: every file of annotations, extra caption alone, empty ones kept; published number R@1"
    return _retrieve("dci_extra", model, run, _of_folder, lambda r: r.extra, raw, words)


def dci_long(model: Model, run: EvalContext) -> Result:
    """FAST-GOAL's: those that have an extra caption."""
    words = "FAST-GOAL: those with an extra caption, which is the text"
    return _retrieve("dci_long", model, run, _of_folder, lambda r: r.extra if r.extra.strip() else None, raw, words)


def _retrieve(
    name: str,
    model: Model,
    run: EvalContext,
    list_files: Callable[[Path], list[Path]],
    text: Callable[[Record], str | None],
    wording: Wording,
    words: str,
) -> Result:
    folder = place(run.root, "densely_captioned_images/annotations", "dci/annotations", "annotations")
    found, checksums = [], []
    for file in run.track(list_files(folder), f"{name}: annotations"):
        document, checksum = read_json(file)
        found.extend(_records(file, document))
        checksums.append(f"{file.name} {checksum}")
    chosen = [(record, caption) for record in found if (caption := text(record)) is not None]
    photos = [folder.parent / place_ for place_ in ("photos", "images")]
    named = [(first_there([p / r.image for p in photos]), r.image, [caption]) for r, caption in chosen]
    data = gather_files(named, folder, {"annotations/*.json": digest(checksums)}, run)
    if len(chosen) < len(found):
        data.counts["picture without an extra caption"] += len(found) - len(chosen)
    return retrieve(name, model, run, data, words, LONG_KS, wording)


def _records(file: Path, document: Any) -> Iterator[Record]:
    for row in checked(file, "the file", [document], FIELDS):
        yield Record(row["image"], row["short_caption"], row["extra_caption"])


def _of_folder(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} must hold annotations ID-data.json, got none")
    return files


def _of_splits(folder: Path) -> list[Path]:
    path = place(folder.parent, "splits.json")
    splits, _ = read_json(path)
    files: list[Path] = []
    for split in SPLITS:
        names = splits.get(split) if isinstance(splits, dict) else None
        if not isinstance(names, list) or not all(PATH.holds(name) for name in names):
            raise ValueError(f"{path}: '{split}' must be a list of files of annotations, got {names!r:.80}")
        files += [folder / name for name in names]
    return files
