"""RefCOCO, RefCOCO+ and RefCOCOg: which object does an expression mean? Weakly supervised, as ALBEF measures it.

Read from the release of ``refer`` and COCO's pictures; a detector's boxes are optional, in ALBEF's form, a list of
x, y, width, height for each image's id::

    refcoco/{refs(unc).p,instances.json}  refcoco+/...  refcocog/{refs(umd).p,instances.json}
    refcoco/dets.json  train2014/*.jpg

Every sentence counts. Two maps: cosines of patches (``refcoco``...) and β-CLIP's attention (``refcoco_attention``...).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.annotations import ID, LIST, NAME, PATH, XYWH, AnnotationFile, checked
from eval.benchmark import Benchmark, Model, Result, Run
from eval.fits import squash
from eval.localisation import Maps, Phrase, Xywh, by_attention, by_similarity, locate, located_items, located_numbers
from eval.pictures import present
from eval.places import first_there, place
from eval.plain_pickles import read_pickle
from eval.records import read_json
from eval.sources import ImageFile

SETS = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}
REF = {"ann_id": ID, "image_id": ID, "split": NAME, "sentences": LIST}
TRAIN = "train"


@dataclass(frozen=True)
class RefCoco:
    """The benchmark of one of ``SETS`` with one kind of map."""

    data: str
    maps: Maps
    ending: str = ""

    @property
    def __name__(self) -> str:
        return f"{self.data}{self.ending}"

    def __call__(self, model: Model, run: Run) -> Result:
        """All splits but train."""
        folder = place(run.root, self.data, f"refer/data/{self.data}")
        refs_file, dets_file = folder / SETS[self.data], folder / "dets.json"
        refs = read_pickle(refs_file, {})
        annotations = AnnotationFile(folder / "instances.json")
        images = annotations.by_id("images", {"id": ID, "file_name": PATH})
        boxes = annotations.by_id("annotations", {"id": ID, "image_id": ID, "bbox": XYWH})
        files = {annotations.path.name: annotations.sha256, refs_file.name: _sha256(refs_file)}
        counts: Counter[str] = Counter()
        proposals: dict[str, list[Xywh]] | None = None
        if dets_file.is_file():
            proposals, files[dets_file.name] = _detections(dets_file)
        else:
            counts["box score left out: no dets.json"] = 1
        if not isinstance(refs, list):
            raise ValueError(f"{refs_file} must hold a list, got {type(refs).__name__}")
        splits: dict[str, dict[int, list[Phrase]]] = {}
        for index, ref in enumerate(checked(refs_file, "refs", refs, REF)):
            if ref["split"] == TRAIN:
                continue
            annotations.refer(f"refs[{index}].ann_id", ref["ann_id"], boxes, "annotations")
            annotations.refer(f"refs[{index}].image_id", ref["image_id"], images, "images")
            x, y, width, height = boxes[ref["ann_id"]]["bbox"]
            sentences = checked(refs_file, f"refs[{index}].sentences", ref["sentences"], {"sent": NAME})
            own = [
                Phrase(0, s["sent"], [(x, y, x + width, y + height)], f"{index}.{n}") for n, s in enumerate(sentences)
            ]
            splits.setdefault(ref["split"], {}).setdefault(ref["image_id"], []).extend(own)
        return self._splits(model, run, annotations, images, splits, proposals, Result({}, {"files": files}, counts))

    def _splits(
        self,
        model: Model,
        run: Run,
        annotations: AnnotationFile,
        images: dict[int, dict[str, Any]],
        splits: dict[str, dict[int, list[Phrase]]],
        proposals: dict[str, list[Xywh]] | None,
        result: Result,
    ) -> Result:
        numbers, tables, counts = {}, {}, Counter(result.counts)
        for split, by_image in sorted(splits.items()):
            listed = [(_picture(run.root, images[number]["file_name"]), number) for number in by_image]
            there = set(present(listed, annotations.path, run.skip_missing, counts))
            pictures = [ImageFile(file, file.name) for file, number in listed if number in there]
            kept = [number for _, number in listed if number in there]
            phrases = [p._replace(image=row) for row, number in enumerate(kept) for p in by_image[number]]
            if not phrases:
                raise ValueError(f"{annotations.path}: no expression of {split} is left; left out: {dict(counts)}")
            given = None if proposals is None else [proposals.get(str(number), []) for number in kept]
            head = f"{self.__name__}/{split}"
            found = locate(head, model, run, pictures, phrases, self.maps, given)
            numbers |= located_numbers(head, found, given is not None)
            tables[head] = located_items(head, pictures, phrases, found, given is not None)
        settings = {
            "protocol": f"ALBEF: pointing strictly inside the box, box score with area^0.4, maps {self.maps.__name__}",
            "picture": f"{(run.fit or squash).__name__}, {model.image_size}×{model.image_size}",
            **result.settings,
            "counts": dict(counts),
        }
        return Result(numbers, settings, dict(counts), tables)


REFCOCO: tuple[Benchmark, ...] = tuple(
    RefCoco(data, maps, ending) for maps, ending in ((by_similarity, ""), (by_attention, "_attention")) for data in SETS
)


def _detections(path: Path) -> tuple[dict[str, list[Xywh]], str]:
    document, checksum = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: the JSON must be an object, got {type(document).__name__}")
    found: dict[str, list[Xywh]] = {}
    for number, boxes in document.items():
        for box in boxes if isinstance(boxes, list) else [boxes]:
            if not isinstance(box, list) or not XYWH.holds(box[:4]):
                raise ValueError(f"{path}: '{number}' must be a list of {XYWH.words}, got {box!r:.80}")
            found.setdefault(number, []).append((box[0], box[1], box[2], box[3]))
    return found, checksum


def _picture(root: Path, name: str) -> Path:
    """``refer`` may name a crop of its own, COCO_train2014_N_M.jpg; the picture is COCO_train2014_N.jpg."""
    parts = Path(name).stem.split("_")
    plain = "_".join(parts[:3]) + Path(name).suffix
    return first_there([root / f / n for f in ("train2014", "images/train2014", "") for n in (name, plain)])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
