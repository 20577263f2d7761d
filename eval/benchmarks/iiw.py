"""ImageInWords (Garg et al., EMNLP 2024): 612 images of three sets with very long captions by hand, as LoTLIP joins
them.

Read from the release's three files and the images of DOCCI and DCI::

    imageinwords/datasets/{DOCCI_Test,IIW-400,DCI_Test}/data.jsonl
    imageinwords/{docci,docci_aar,dci}/NAME.jpg

An image of DOCCI that is listed as ``test_N`` and there only as ``train_N`` is taken by that name, and counted.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.formats.imageinwords import other_name, read_imageinwords
from eval.data.find_file import first_there, place
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
    named, files, renamed = [], {}, 0
    path = run.root
    for part, folders in PARTS.items():
        path = place(run.root, *(f"{head}{part}/data.jsonl" for head in ("imageinwords/datasets/", "datasets/", "")))
        files[f"{part}/data.jsonl"] = file_sha256(path)
        for image, caption in read_imageinwords(path):
            file, other = _image(run.root, folders, image)
            renamed += other
            named.append((file, f"{part}/{image}", [caption]))
    data = gather_files(named, path, files, run)
    if renamed:
        data.counts["image test_N taken by the name train_N"] += renamed
    words = "LoTLIP: DOCCI_Test + IIW-400 + DCI_Test, the caption IIW, both ways; published number R@1"
    return retrieve("iiw", model, run, data, words, LONG_KS)


def _image(root: Path, folders: tuple[str, ...], image: str) -> tuple[Path, bool]:
    """The file, and whether it bears the other name."""
    places = [base / folder for base in (root / "imageinwords", root) for folder in folders]
    file = first_there([place_ / image for place_ in places])
    other = first_there([place_ / other_name(image) for place_ in places])
    return (other, True) if not file.is_file() and other.is_file() else (file, False)
