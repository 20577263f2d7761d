"""FG-OVD in its two released forms: the same four boxes, two images of val2017 and one of train2017."""

from __future__ import annotations

from pathlib import Path

from tests.eval.official import paint, write_json
from tests.eval.releases import write_lines

IMAGES = {7: "val2017/000000000007.jpg", 8: "train2017/000000000008.jpg"}
# image, box x y w h, right, wrong
BOXES = [
    (7, [0.0, 0.0, 20.0, 20.0], "a red wall", ["a green wall.", "a blue wall"]),
    (7, [20.5, 0.5, 19.0, 19.0], "A green wall.", ["a red wall", "a blue wall."]),
    (8, [0, 0, 40, 20], "a blue wall", ["a red wall", "a blue wall", "a green wall"]),  # right and wrong at once
    (8, [3, 3, 10, 10], "a red wall", ["a blue wall"]),  # wrong
]


def write_fgovd(root: Path, official: bool = True) -> None:
    """All four levels, the same boxes in each."""
    for number, name in IMAGES.items():
        left, right = ("red", "green") if number == 7 else ("blue", "blue")
        paint(root / name, (40, 20), (left, (0, 0, 20, 20)), (right, (20, 0, 40, 20)))
    if official:
        for stem in ("1_attributes", "2_attributes", "3_attributes", "shuffle_negatives"):
            write_json(root / "benchmarks" / f"{stem}.json", document())
    else:
        for stem in ("h_attributes", "m_attributes", "e_attributes", "shuffle_negatives"):
            write_lines(root / "fgovd" / f"{stem}_llava.jsonl", lines())


def document() -> dict:
    """LVIS's manner: captions are categories, one each time one is used."""
    categories, annotations = [], []
    for number, (image, box, right, wrong) in enumerate(BOXES):
        ids = []
        for text in (right, *wrong):
            ids.append(100 + len(categories))
            categories.append({"id": ids[-1], "name": text, "def": "", "synset": "", "synonyms": []})
        annotations.append(
            {"id": number, "image_id": image, "bbox": box, "category_id": ids[0], "neg_category_ids": ids[1:]}
        )
    images = [{"id": n, "file_name": name, "width": 40, "height": 20} for n, name in IMAGES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def lines() -> list[dict]:
    def stop(text):
        return text if text.endswith(".") else text + "."

    return [
        {
            "img_path": IMAGES[image], "bbox": box, "pos_expression": [stop(right)],
            "neg_expression": [stop(text) for text in wrong], "width": 40, "height": 20, "sent_id": number,
        }
        for number, (image, box, right, wrong) in enumerate(BOXES)
    ]  # fmt: skip
