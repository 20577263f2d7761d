"""RefCOCO, RefCOCO+ and RefCOCOg: the object that an expression refers to, without box supervision, as in ALBEF.

Read from the release of ``refer`` and COCO's images; a detector's boxes are optional, in ALBEF's form, a list of
x, y, width, height for each image's id::

    refcoco/{refs(unc).p,instances.json}  refcoco+/...  refcocog/{refs(umd).p,instances.json}
    refcoco/dets.json  train2014/*.jpg

Every sentence counts. There are two maps: cosines of patches (``refcoco``...) and β-CLIP's attention
(``refcoco_attention``...). ``box_accuracy`` chooses among the detector's boxes, ``annotated_box_accuracy`` among COCO's
own of the image.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.formats.layout import LIST, NAME, PATH, SIDE_OR_NONE, WHOLE, XYWH, AnnotationFile, checked
from eval.data.find_file import find_path, first_file, with_files
from eval.data.image_preprocessing import fit_setting, squash
from eval.data.records import file_sha256
from eval.data.restricted_pickle import read_pickle
from eval.data.sources import ImageFile
from eval.interfaces import Benchmark, EvalContext, Model, Result
from eval.protocols.image_text_retrieval import text_counts
from eval.protocols.phrase_grounding import (
    Maps,
    Phrase,
    Xywh,
    by_attention,
    by_similarity,
    ground_phrases,
    grounding_items,
    read_detections,
)
from eval.results.compare import numbers_of

SETS = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}
REF = {"ann_id": WHOLE, "image_id": WHOLE, "split": NAME, "sentences": LIST}
TRAIN = "train"


@dataclass(frozen=True)
class RefCoco:
    """The benchmark of one data set of ``SETS`` with one kind of map."""

    data: str
    maps: Maps
    ending: str = ""

    @property
    def __name__(self) -> str:
        return f"{self.data}{self.ending}"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """All splits but train."""
        folder = find_path(run.root, self.data, f"refer/data/{self.data}")
        refs_file, dets_file = folder / SETS[self.data], folder / "dets.json"
        annotations = AnnotationFile(folder / "instances.json")
        fields = {"id": WHOLE, "file_name": PATH, "width": SIDE_OR_NONE, "height": SIDE_OR_NONE}
        images = annotations.by_id("images", fields)
        boxes = annotations.by_id("annotations", {"id": WHOLE, "image_id": WHOLE, "bbox": XYWH})
        files = {annotations.path.name: annotations.sha256, refs_file.name: file_sha256(refs_file)}
        counts: Counter[str] = Counter()
        candidates: dict[str, dict[str, list[Xywh]]] = {}
        if dets_file.is_file():
            candidates["box"], files[dets_file.name] = read_detections(dets_file)
        else:
            counts["box score left out: no dets.json"] = 1
        annotated = candidates.setdefault("annotated_box", {})
        for box in boxes.values():
            annotated.setdefault(str(box["image_id"]), []).append(tuple(box["bbox"]))
        numbers, tables = {}, {}
        for split, by_image in sorted(_read_splits(refs_file, annotations, images, boxes).items()):
            items = [(_image_path(run.root, images[number]["file_name"]), number) for number in by_image]
            present = set(with_files(items, annotations.path, run.skip_missing, counts))
            sources = [ImageFile(file, file.name, _size(images[n])) for file, n in items if n in present]
            ids = [number for _, number in items if number in present]
            phrases = [p._replace(image=row) for row, number in enumerate(ids) for p in by_image[number]]
            if not phrases:
                raise ValueError(f"{annotations.path}: no expression of {split} is left; left out: {dict(counts)}")
            image_boxes = {kind: [by_id.get(str(n), []) for n in ids] for kind, by_id in candidates.items()}
            head = f"{self.__name__}/{split}"
            hits = ground_phrases(head, model, run, sources, phrases, self.maps, image_boxes)
            tables[head] = grounding_items(head, sources, phrases, hits)
            numbers |= numbers_of(tables[head]) | {f"{head}/phrases": float(len(phrases))}
            counts += text_counts(model, [phrase.text for phrase in phrases])
        settings = {
            "protocol": f"ALBEF: pointing strictly inside the box, box score with area^0.4, maps {self.maps.__name__}",
            "image": fit_setting(run.fit or squash, model.image_size),
            "files": files,
            "counts": dict(counts),
        }
        return Result(numbers, settings, dict(counts), tables)


def _read_splits(
    file: Path, annotations: AnnotationFile, images: dict[int, Any], boxes: dict[int, Any]
) -> dict[str, dict[int, list[Phrase]]]:
    """The expressions of each split but train, by image id."""
    refs = read_pickle(file, {})
    if not isinstance(refs, list):
        raise ValueError(f"{file} must hold a list, got {type(refs).__name__}")
    splits: dict[str, dict[int, list[Phrase]]] = {}
    for index, ref in enumerate(checked(file, "refs", refs, REF)):
        if ref["split"] == TRAIN:
            continue
        annotations.refer(f"refs[{index}].ann_id", ref["ann_id"], boxes, "annotations")
        annotations.refer(f"refs[{index}].image_id", ref["image_id"], images, "images")
        x, y, width, height = boxes[ref["ann_id"]]["bbox"]
        corners = (x, y, x + width, y + height)
        sentences = checked(file, f"refs[{index}].sentences", ref["sentences"], {"sent": NAME})
        phrases = splits.setdefault(ref["split"], {}).setdefault(ref["image_id"], [])
        phrases += [Phrase(0, s["sent"], [corners], f"{index}.{n}") for n, s in enumerate(sentences)]
    return splits


REFCOCO: dict[str, Benchmark] = {
    f"{data}{ending}": RefCoco(data, maps, ending)
    for maps, ending in ((by_similarity, ""), (by_attention, "_attention"))
    for data in SETS
}


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height where the file gives both: they show whether boxes refer to the upright image."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if width and height else None


def _image_path(root: Path, name: str) -> Path:
    """``refer`` may name a crop, COCO_train2014_N_M.jpg; the image is COCO_train2014_N.jpg."""
    parts = Path(name).stem.split("_")
    plain = "_".join(parts[:3]) + Path(name).suffix
    return first_file([root / f / n for f in ("train2014", "images/train2014", "") for n in (name, plain)])
