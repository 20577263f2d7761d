"""``segmentation:DIR``: zero-shot segmentation of a folder of images and label maps, mean IoU.

    DIR/images/NAME.jpg  DIR/labels/NAME.png  DIR/classnames.txt

A label map holds the number of the class at each pixel, and 255 at pixels to ignore. A line of ``classnames.txt`` is a
class, its synonyms separated by commas (the best of them counts); ``DIR/templates.txt`` may hold prompts to replace
OpenAI's 80.

SCLIP's setup without its attention: the shorter side is resized to 1.5 times the model's square, windows of that square
slide by half of it, the patches' cosines with the classes are upsampled (bilinear) and averaged where windows overlap.
IoU is over all pixels of the data set; its mean is over the classes that a map holds or that are predicted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional

from datamodules.image_decoding import UNREADABLE
from eval.data.cache import digest
from eval.data.find_file import user_folder
from eval.data.image_folders import EXTENSIONS
from eval.data.image_preprocessing import no_fit
from eval.data.records import file_sha256, read_text
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext, Model, PathBenchmark, Result
from eval.metrics.gather import gather_rows, rank_share
from eval.protocols.embed import embed_classes, patches_of
from eval.protocols.phrase_grounding import turn_back
from eval.protocols.prompts import folder_templates
from eval.results.compare import numbers_of
from eval.results.per_item import Items, Mean

IGNORED = 255
LARGER = 1.5  # the shorter side, in squares
LONGEST = 2048  # pixels


class Segmentation(PathBenchmark):
    """The benchmark of one folder, under ``root`` or anywhere."""

    kind = "segmentation"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """All images."""
        root, name = user_folder(run.root, self.path), self.head
        no_fit(name, run.fit)
        counts: Counter[str] = Counter()
        pairs = _pairs(root, run.skip_missing, counts)
        classes = [line.split(",") for line in read_text(root / "classnames.txt").splitlines() if line.strip()]
        if not classes:
            raise ValueError(f"{root / 'classnames.txt'} must hold a class a line, got none")
        templates = folder_templates(root)
        words = [word.strip() for synonyms in classes for word in synonyms]
        owner = torch.tensor([n for n, synonyms in enumerate(classes) for _ in synonyms])
        vectors = embed_classes(model, run, words, templates)
        rows = _class_overlaps(name, model, run, pairs, vectors, owner)
        settings = {
            "protocol": "SCLIP's windows, patch values, no thresholds; mean over classes labelled or predicted",
            "image": f"shorter side {int(LARGER * model.image_size)}, windows of {model.image_size}, by halves",
            "prompts per class": len(templates),
            "classes": len(classes),
            "images": len(pairs),
            "split sha256": digest(f"{p.name} {file_sha256(labels)}" for p, labels in pairs),
            "class names sha256": digest(words),
            "counts": dict(counts),
        }
        names = [image.name for image, _ in pairs]
        table = iou_items(name, rows, names, [", ".join(map(str.strip, synonyms)) for synonyms in classes])
        numbers = numbers_of(table) | {f"{name}/images": float(len(pairs))}
        return Result(numbers, settings, dict(counts), {name: table})


def _class_overlaps(
    name: str,
    model: Model,
    run: EvalContext,
    pairs: list[tuple[ImageFile, Path]],
    vectors: Float[Tensor, "N D"],
    owner: Int[Tensor, " N"],
) -> Int[Tensor, "R 5"]:
    """The rows of ``overlaps`` of all images, each after its image's number. Collective.

    Raises ValueError where there are none.
    """
    rows, classes = [], int(owner.max()) + 1
    for number in run.track(rank_share(range(len(pairs))), f"{name}: images"):
        source, labels = pairs[number]
        right = _labels(labels, classes)
        size = (right.shape[1], right.shape[0])
        image, turn = replace(
            source, size=size, size_source=f"its label map {labels.parent.name}/{labels.name}"
        ).open_turned()
        predicted = turn_back(predict(model, image, vectors, owner, run.batch_size), turn)
        overlap = overlaps(right, predicted, classes)
        rows.append(torch.cat([torch.full((len(overlap), 1), number), overlap], dim=1))
    gathered = gather_rows(rows, torch.int64)
    if gathered is None:
        raise ValueError(f"{name}: the label maps must hold a pixel that is not {IGNORED}, got none")
    return gathered[gathered[:, 0].argsort(stable=True)].cpu()


def overlaps(right: Int[Tensor, "H W"], predicted: Int[Tensor, "H W"], classes: int) -> Int[Tensor, "c 4"]:
    """For each class that the label map holds or that is predicted at its pixels: the class's number, and the pixels of
    the intersection, of the union, and of the label map.
    """
    counted = right != IGNORED
    right, predicted = right[counted], predicted[counted]
    labelled, chosen, intersection = (
        torch.bincount(values, minlength=classes) for values in (right, predicted, right[right == predicted])
    )
    union = labelled + chosen - intersection
    number = union.nonzero().squeeze(1)
    return torch.stack([number, intersection[number], union[number], labelled[number]], dim=1)


def iou_items(name: str, rows: Int[Tensor, "R 5"], images: list[str], classes: list[str]) -> Items:
    """A row per image and class that its label map holds or that is predicted."""
    image, number, intersection, union, labelled = rows.T.tolist()
    columns = {
        "image": [images[n] for n in image],
        "label": number,
        "class": [classes[n] for n in number],
        "intersection": intersection,
        "union": union,
        "pixels": labelled,
        "IoU": [inner / outer for inner, outer in zip(intersection, union, strict=True)],
    }
    means = {
        f"{name}/mean_IoU": Mean("intersection", "union", "label"),
        f"{name}/pixel_accuracy": Mean("intersection", "pixels"),
    }
    return Items(columns, means, "image")


def predict(
    model: Model, image: Image.Image, vectors: Float[Tensor, "N D"], owner: Int[Tensor, " N"], batch_size: int
) -> Int[Tensor, "H W"]:
    """The class of every pixel; ``owner`` is the class of each of the ``vectors``."""
    side = model.image_size
    scale = min(LARGER * side / min(image.size), LONGEST / max(image.size))
    width, height = (max(side, round(length * scale)) for length in image.size)
    resized = torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    corners = [(y, x) for y in starts(height, side) for x in starts(width, side)]
    classes = int(owner.max()) + 1
    total, windows = torch.zeros(classes, height, width), torch.zeros(height, width)
    for first in range(0, len(corners), batch_size):
        part = corners[first : first + batch_size]
        dense = patches_of(model.encode_image(torch.stack([resized[:, y : y + side, x : x + side] for y, x in part])))
        cosines = functional.normalize(dense.float().flatten(2).mT, dim=-1) @ vectors.to(dense.device).float().T
        best = cosines.new_full((*cosines.shape[:2], classes), -torch.inf)
        best = best.scatter_reduce(2, owner.to(dense.device).expand_as(cosines), cosines, "amax")
        grid = best.mT.unflatten(2, dense.shape[2:])
        scores = functional.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False).cpu()
        for (y, x), window in zip(part, scores, strict=True):
            total[:, y : y + side, x : x + side] += window
            windows[y : y + side, x : x + side] += 1
    size = (image.height, image.width)
    return functional.interpolate((total / windows)[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)


def starts(length: int, side: int) -> list[int]:
    """First pixels of the windows along a side: every half window, and one window that ends at the side's end."""
    step = max(1, side // 2)
    return sorted({min(at, length - side) for at in range(0, max(length - side, 0) + step, step)})


def _pairs(root: Path, skip_missing: bool, counts: Counter[str]) -> list[tuple[ImageFile, Path]]:
    """Every image and its label map."""
    pairs = []
    folder = root / "images"
    files = sorted(f for f in folder.iterdir() if not f.name.startswith(".")) if folder.is_dir() else []
    for file in files:
        if file.suffix.lower() not in EXTENSIONS:
            raise ValueError(f"{folder} must hold images ({', '.join(sorted(EXTENSIONS))}), got {file.name}")
        labels = root / "labels" / f"{file.stem}.png"
        if not labels.is_file():
            if not skip_missing:
                raise FileNotFoundError(f"{labels} does not exist; every image must have a label map (--skip_missing)")
            counts["label map missing"] += 1
            continue
        pairs.append((ImageFile(file, file.name), labels))
    if not pairs:
        raise FileNotFoundError(f"{folder} must hold images with label maps, got none")
    return pairs


def _labels(file: Path, classes: int) -> Int[Tensor, "H W"]:
    """A label map's numbers, or its palette's indices."""
    try:
        with Image.open(file) as image:
            if image.mode not in ("L", "P", "I", "I;16"):
                raise ValueError(f"its pixels must be numbers, got mode {image.mode}")
            numbers = torch.from_numpy(np.array(image).astype(np.int64))
    except UNREADABLE as error:
        raise ValueError(f"{file} is no label map: {error}") from error
    wrong = numbers[(numbers >= classes) & (numbers != IGNORED)]
    if len(wrong):
        raise ValueError(f"{file} must hold numbers below {classes}, or {IGNORED}, got {int(wrong[0])}")
    return numbers
