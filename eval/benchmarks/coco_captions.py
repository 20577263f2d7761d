"""COCO's short captions: two test sets of 5000 images whose numbers must not be compared.

``coco_karpathy`` is the test split of Karpathy (OpenAI CLIP, open_clip), all captions of an image right (25,010), and
``coco_karpathy_1k`` the mean over its five folds of 1000 images, the first five captions of each;
``coco_val2017`` is val2017 with the first five captions of each (Long-CLIP, FG-CLIP), ``coco_val2017_all`` with all
25,014 (FLAIR). Read from the released files::

    dataset_coco.json  val2014/*.jpg                                (Karpathy's; or coco_karpathy_test.json, the list)
    annotations/captions_val2017.json  val2017/*.jpg

321 of val2017's captions belong to several images, word for word, and tie.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from datamodules.formats.layout import NAME, PATH, WHOLE, AnnotationFile
from eval.data.find_file import find_path
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import ImageTexts, gather_files, retrieve, retrieve_in_folds
from eval.protocols.karpathy import read_karpathy

FIRST = 5
KARPATHY = ("dataset_coco.json", "annotations/dataset_coco.json", "coco_karpathy_test.json")


def coco_karpathy(model: Model, run: EvalContext) -> Result:
    """Karpathy's test split, all captions."""
    protocol = "Karpathy test, all captions, any of an image's own is right; published numbers R@1, R@5, R@10"
    return retrieve("coco_karpathy", model, run, read_karpathy(run, KARPATHY, _folder), protocol)


def coco_karpathy_1k(model: Model, run: EvalContext) -> Result:
    """The mean over five folds of Karpathy's test split, first five captions."""
    protocol = "VSE++: Karpathy test, first five captions, mean over five folds of 1000 images in the file's order"
    data = read_karpathy(run, KARPATHY, _folder)
    data.captions = [captions[:FIRST] for captions in data.captions]
    return retrieve_in_folds("coco_karpathy_1k", model, run, data, protocol)


def coco_val2017(model: Model, run: EvalContext) -> Result:
    """val2017, first five captions."""
    protocol = (
        "Long-CLIP: val2017, first five captions, any of an image's own is right; published numbers R@1, R@5, R@10"
    )
    return retrieve("coco_val2017", model, run, read_val2017(run, FIRST), protocol)


def coco_val2017_all(model: Model, run: EvalContext) -> Result:
    """val2017, all captions."""
    protocol = "FLAIR: val2017, all captions, any of an image's own is right"
    return retrieve("coco_val2017_all", model, run, read_val2017(run, None), protocol)


def read_val2017(run: EvalContext, limit: int | None) -> ImageTexts:
    """Captions in the file's order, images in the order of their ids."""
    annotations = AnnotationFile(find_path(run.root, "annotations/captions_val2017.json"))
    images = annotations.by_id("images", {"id": WHOLE, "file_name": PATH})
    captions: dict[int, list[str]] = {number: [] for number in sorted(images)}
    for number, row in annotations.by_id("annotations", {"id": WHOLE, "image_id": WHOLE, "caption": NAME}).items():
        annotations.refer(f"annotations[id {number}].image_id", row["image_id"], images, "images")
        captions[row["image_id"]].append(row["caption"])
    folder = run.root / "val2017"
    records = [(folder / (name := images[n]["file_name"]), name, texts[:limit]) for n, texts in captions.items()]
    return gather_files(records, annotations.path, {annotations.path.name: annotations.sha256}, run)


def _folder(root: Path, folder: str | None, filename: str) -> list[Path]:
    """COCO's Karpathy test lies in val2014."""
    name = PurePosixPath(filename).name
    return [root / (folder or "val2014") / name, root / "images" / (folder or "val2014") / name]
