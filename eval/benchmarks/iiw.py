"""ImageInWords (Garg et al., EMNLP 2024): 612 images of three sets, joined as LoTLIP does, with very long captions
written by hand.

Read from the release's three files and the images of DOCCI and DCI::

    imageinwords/datasets/{DOCCI_Test,IIW-400,DCI_Test}/data.jsonl
    imageinwords/{docci,docci_aar,dci}/NAME.jpg

An image of DOCCI that is listed as ``test_N`` but exists only as ``train_N`` is read by that name, and counted.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.formats.imageinwords import other_name, read_imageinwords
from eval.data.find_file import find_path, first_file
from eval.data.records import file_sha256
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import LONG_KS, gather_files, retrieve

PARTS = {  # file; folders of its images
    "DOCCI_Test": ("docci", "docci/images"),
    "IIW-400": ("docci_aar", "docci/images", "images"),
    "DCI_Test": ("dci", "dci/photos", "photos", "densely_captioned_images/photos"),
}


def iiw(model: Model, run: EvalContext) -> Result:
    """LoTLIP's 612 pairs."""
    records, files, renamed = [], {}, 0
    path = run.root
    for part, folders in PARTS.items():
        path = find_path(
            run.root, *(f"{head}{part}/data.jsonl" for head in ("imageinwords/datasets/", "datasets/", ""))
        )
        files[f"{part}/data.jsonl"] = file_sha256(path)
        for image, caption in read_imageinwords(path):
            file, has_other_name = _image(run.root, folders, image)
            renamed += has_other_name
            records.append((file, f"{part}/{image}", [caption]))
    data = gather_files(records, path, files, run)
    if renamed:
        data.counts["image test_N taken by the name train_N"] += renamed
    protocol = "LoTLIP: DOCCI_Test + IIW-400 + DCI_Test, the caption IIW, both ways; published number R@1"
    return retrieve("iiw", model, run, data, protocol, LONG_KS)


def _image(root: Path, names: tuple[str, ...], image: str) -> tuple[Path, bool]:
    """The file, and whether it has the other name."""
    folders = [base / name for base in (root / "imageinwords", root) for name in names]
    file = first_file([folder / image for folder in folders])
    other_file = first_file([folder / other_name(image) for folder in folders])
    return (other_file, True) if not file.is_file() and other_file.is_file() else (file, False)
