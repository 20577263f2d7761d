"""``segmentation:DIR``: zero-shot segmentation of a folder of images and label maps, mean IoU.

    DIR/images/NAME.jpg  DIR/labels/NAME.png  DIR/classnames.txt

A label map holds a class's number at each pixel, 255 where nothing is asked. A line of ``classnames.txt`` is a class,
its synonyms parted by commas (the best of them counts); ``DIR/templates.txt`` may give prompts in place of OpenAI's 80.

As SCLIP's setup without its attention: the shorter side is resized to 1.5 times the model's square, windows of that
square slide by half of it, each patch's cosines with the classes are drawn up (bilinear) and averaged where windows
overlap. IoU is over all pixels of the data set; its mean is over the classes that stand in a map or are predicted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
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
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.gather import gather_rows, rank, world_size
from eval.protocols.embed import embed_classes
from eval.protocols.phrase_grounding import as_annotated
from eval.protocols.prompts import imagenet_templates, read_templates
from eval.results.compare import numbers_of
from eval.results.per_item import Items, Mean

IGNORED = 255
LARGER = 1.5  # the shorter side, in squares
LONGEST = 2048  # pixels


@dataclass(frozen=True)
class Segmentation:
    """The benchmark of one folder, under ``root`` or anywhere."""

    folder: str

    @property
    def __name__(self) -> str:
        return f"segmentation:{self.folder}"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """All images."""
        root, name = user_folder(run.root, self.folder), f"segmentation:{Path(self.folder).name}"
        no_fit(name, run.fit)
        counts: Counter[str] = Counter()
        pairs = _pairs(root, run.skip_missing, counts)
        classes = [line.split(",") for line in read_text(root / "classnames.txt").splitlines() if line.strip()]
        if not classes:
            raise ValueError(f"{root / 'classnames.txt'} must hold a class a line, got none")
        templates = imagenet_templates()
        if (root / "templates.txt").is_file():
            templates = read_templates(root / "templates.txt")
        words = [word.strip() for synonyms in classes for word in synonyms]
        owner = torch.tensor([n for n, synonyms in enumerate(classes) for _ in synonyms])
        vectors = embed_classes(model, run, words, templates)
        rows = _compared(name, model, run, pairs, vectors, owner)
        settings = {
            "protocol": "SCLIP's windows, patch values, no thresholds; mean over classes that stand or are predicted",
            "image": f"shorter side {int(LARGER * model.image_size)}, windows of {model.image_size}, by halves",
            "prompts per class": len(templates),
            "classes": len(classes),
            "images": len(pairs),
            "split sha256": digest(f"{p.name} {file_sha256(labels)}" for p, labels in pairs),
            "class names sha256": digest(words),
            "counts": dict(counts),
        }
        names = [image.name for image, _ in pairs]
        table = overlap_items(name, rows, names, [", ".join(word.strip() for word in own) for own in classes])
        numbers = numbers_of(table) | {f"{name}/images": float(len(pairs))}
        return Result(numbers, settings, dict(counts), {name: table})


def _compared(
    name: str,
    model: Model,
    run: EvalContext,
    pairs: list[tuple[ImageFile, Path]],
    vectors: Float[Tensor, "N D"],
    owner: Int[Tensor, " N"],
) -> Int[Tensor, "R 5"]:
    """The ``overlaps`` of every image, its number before each. Collective. Raises ValueError where there are none."""
    rows, classes = [], int(owner.max()) + 1
    for number in run.track(range(len(pairs))[rank() :: world_size()], f"{name}: images"):
        source, labels = pairs[number]
        right = _labels(labels, classes)
        size = (right.shape[1], right.shape[0])
        image, turn = replace(
            source, size=size, told_by=f"its label map {labels.parent.name}/{labels.name}"
        ).open_turned()
        found = as_annotated(predict(model, image, vectors, owner, run.batch_size), turn)
        own = overlaps(right, found, classes)
        rows.append(torch.cat([torch.full((len(own), 1), number), own], dim=1))
    gathered = gather_rows(rows, torch.int64)
    if gathered is None:
        raise ValueError(f"{name}: the label maps must hold a pixel that is not {IGNORED}, got none")
    return gathered[gathered[:, 0].argsort(stable=True)].cpu()


def overlaps(right: Int[Tensor, "H W"], found: Int[Tensor, "H W"], classes: int) -> Int[Tensor, "c 4"]:
    """For each class that stands in a label map or is predicted where it asks: its number, and the pixels of the
    intersection, of the union, and of the label map.
    """
    asked = right != IGNORED
    right, found = right[asked], found[asked]
    own, predicted, both = (
        torch.bincount(values, minlength=classes) for values in (right, found, right[right == found])
    )
    union = own + predicted - both
    number = union.nonzero().squeeze(1)
    return torch.stack([number, both[number], union[number], own[number]], dim=1)


def overlap_items(name: str, rows: Int[Tensor, "R 5"], images: list[str], classes: list[str]) -> Items:
    """A row per image and class that stands in it or is predicted."""
    image, number, both, union, own = rows.T.tolist()
    columns = {
        "image": [images[n] for n in image],
        "label": number,
        "class": [classes[n] for n in number],
        "intersection": both,
        "union": union,
        "pixels": own,
        "IoU": [one / other for one, other in zip(both, union, strict=True)],
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
    total, seen = torch.zeros(classes, height, width), torch.zeros(height, width)
    for first in range(0, len(corners), batch_size):
        part = corners[first : first + batch_size]
        dense = model.encode_image(torch.stack([resized[:, y : y + side, x : x + side] for y, x in part])).dense
        cosines = functional.normalize(dense.float(), dim=-1) @ vectors.to(dense.device).float().T
        best = cosines.new_full((*cosines.shape[:2], classes), -torch.inf)
        best = best.scatter_reduce(2, owner.to(dense.device).expand_as(cosines), cosines, "amax")
        grid = best.mT.unflatten(2, (math.isqrt(dense.shape[1]),) * 2)
        drawn = functional.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False).cpu()
        for (y, x), one in zip(part, drawn, strict=True):
            total[:, y : y + side, x : x + side] += one
            seen[y : y + side, x : x + side] += 1
    size = (image.height, image.width)
    return functional.interpolate((total / seen)[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)


def starts(length: int, side: int) -> list[int]:
    """First pixels of the windows along a side: one every half window, the last at the end."""
    step = max(1, side // 2)
    return sorted({min(at, length - side) for at in range(0, max(length - side, 0) + step, step)})


def _pairs(root: Path, skip_missing: bool, counts: Counter[str]) -> list[tuple[ImageFile, Path]]:
    """Every image and its label map."""
    found = []
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
        found.append((ImageFile(file, file.name), labels))
    if not found:
        raise FileNotFoundError(f"{folder} must hold images with label maps, got none")
    return found


def _labels(file: Path, classes: int) -> Int[Tensor, "H W"]:
    """A label map as it is stored: numbers, or a palette's."""
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
