"""ImageInWords (Garg et al., EMNLP 2024): 612 pictures of three sets with very long captions by hand, as LoTLIP joins
them.

Read from the release's three files and the pictures of DOCCI and DCI::

    imageinwords/datasets/{DOCCI_Test,IIW-400,DCI_Test}/data.jsonl
    imageinwords/{docci,docci_aar,dci}/NAME.jpg

A picture of DOCCI that is listed as ``test_N`` and there only as ``train_N`` is taken by that name, and counted.
"""

from __future__ import annotations

from pathlib import Path

from eval.data.annotations import NAME, PATH, Rule
from eval.data.find_file import first_there, place
from eval.data.records import Records, read_records
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import LONG_KS, gather_files, retrieve

PARTS = {  # file, the record's field for its picture, folders of the pictures
    "DOCCI_Test": ("image", ("docci", "docci/images")),
    "IIW-400": ("image/key", ("docci_aar", "docci/images", "images")),
    "DCI_Test": ("image", ("dci", "dci/photos", "photos", "densely_captioned_images/photos")),
}
IIW = Rule(
    "a caption, or a list of captions",
    lambda v: NAME.holds(v) or (isinstance(v, list) and bool(v) and NAME.holds(v[0])),
)


def iiw(model: Model, run: EvalContext) -> Result:
    """LoTLIP's 612 pairs."""
    named, files, renamed = [], {}, 0
    path = run.root
    for part, (field, folders) in PARTS.items():
        path = place(run.root, *(f"{head}{part}/data.jsonl" for head in ("imageinwords/datasets/", "datasets/", "")))
        records = read_records(path, {field: PATH, "IIW": IIW})
        files[f"{part}/data.jsonl"] = records.sha256
        for image, caption in _captions(records, field):
            file, other = _picture(run.root, folders, image)
            renamed += other
            named.append((file, f"{part}/{image}", [caption]))
    data = gather_files(named, path, files, run)
    if renamed:
        data.counts["picture test_N taken by the name train_N"] += renamed
    words = "LoTLIP: DOCCI_Test + IIW-400 + DCI_Test, the caption IIW, both ways; published number R@1"
    return retrieve("iiw", model, run, data, words, LONG_KS)


def _captions(records: Records, field: str) -> list[tuple[str, str]]:
    """The pictures' names, with an extension, and captions."""
    found = []
    for row in records.rows:
        caption = row["IIW"] if isinstance(row["IIW"], str) else row["IIW"][0]
        image = row[field]
        found.append((image if Path(image).suffix else f"{image}.jpg", caption))
    return found


def _picture(root: Path, folders: tuple[str, ...], image: str) -> tuple[Path, bool]:
    """The file, and whether it bears the other name."""
    places = [base / folder for base in (root / "imageinwords", root) for folder in folders]
    file = first_there([place_ / image for place_ in places])
    other = first_there([place_ / image.replace("test", "train", 1) for place_ in places])
    return (other, True) if not file.is_file() and other.is_file() else (file, False)
