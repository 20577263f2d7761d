"""ImageNet-1k and its offshoots V2, A, O and R: OpenAI's class names and 80 prompts.

Read from the released folders::

    imagenet/val/nXXXXXXXX/*.JPEG               50,000 images; the class is the rank of its wnid among the 1000
    imagenetv2-matched-frequency-format-val/N/*.jpeg        the class is the folder's number, not its rank as a text
    imagenet-a/nXXXXXXXX/*  imagenet-o/...  imagenet-r/...  200 of the 1000 classes each, and only these are chosen from

A, O and R say which 200 by their folders; the rank of a wnid comes from ``imagenet/val`` or from a file
``imagenet_wnids.txt``, the thousand wnids a line each. FG-CLIP's squash is ``--fit squash``.

As published: ImageNet-O is top-1 over its 200 classes, not the area under the curve of its paper.
"""

from __future__ import annotations

import re
from pathlib import Path

from eval.data.find_file import place
from eval.data.image_folders import class_folders, folder_images
from eval.data.records import read_text
from eval.data.sources import Source
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.prompts import imagenet_classes, imagenet_templates
from eval.protocols.zero_shot_classification import Labelled, classify_images

WNID = re.compile(r"n\d{8}")
CLASSES = 1000
WORDS = "80 prompts of OpenAI, the first of equal classes is chosen; published number top1"


def imagenet(model: Model, run: EvalContext) -> Result:
    """The validation images, 1000 classes."""
    folders = class_folders(place(run.root, "imagenet/val", "imagenet-1k/val", "val"))
    _expect(folders, CLASSES)
    images: list[Source] = []
    labels: list[int] = []
    for label, folder in enumerate(run.track(folders, "imagenet: folders")):
        found = folder_images(folder)
        images += found
        labels += [label] * len(found)
    return classify_images(
        "imagenet", model, run, Labelled(images, labels, imagenet_classes()), imagenet_templates(), WORDS
    )


def imagenet_v2(model: Model, run: EvalContext) -> Result:
    """Matched frequency, 10,000 images."""
    root = place(run.root, "imagenetv2-matched-frequency-format-val", "imagenetv2")
    images: list[Source] = []
    labels: list[int] = []
    for folder in class_folders(root):
        if not (folder.name.isdigit() and int(folder.name) < CLASSES):
            raise ValueError(f"{root} must hold folders 0 to {CLASSES - 1}, got {folder.name}")
        found = folder_images(folder)
        images += found
        labels += [int(folder.name)] * len(found)
    data = Labelled(images, labels, imagenet_classes())
    return classify_images("imagenet_v2", model, run, data, imagenet_templates(), WORDS)


def imagenet_a(model: Model, run: EvalContext) -> Result:
    """Adversarially chosen, 200 classes."""
    return _subset("imagenet_a", "imagenet-a", model, run)


def imagenet_o(model: Model, run: EvalContext) -> Result:
    """Out of distribution, 200 classes, top-1."""
    return _subset("imagenet_o", "imagenet-o", model, run)


def imagenet_r(model: Model, run: EvalContext) -> Result:
    """Renditions, 200 classes."""
    return _subset("imagenet_r", "imagenet-r", model, run)


def _subset(name: str, folder: str, model: Model, run: EvalContext) -> Result:
    folders = class_folders(place(run.root, folder))
    ranks = {wnid: i for i, wnid in enumerate(_wnids(run.root))}
    names = imagenet_classes()
    _expect(folders, None)
    images: list[Source] = []
    labels: list[int] = []
    for label, own in enumerate(folders):
        if own.name not in ranks:
            raise ValueError(f"{own.parent} must hold folders of ImageNet-1k's wnids, got {own.name}")
        found = folder_images(own)
        images += found
        labels += [label] * len(found)
    data = Labelled(images, labels, [names[ranks[own.name]] for own in folders])
    return classify_images(name, model, run, data, imagenet_templates(), f"{WORDS}, over {len(folders)} classes")


def _expect(folders: list[Path], count: int | None) -> None:
    parent = folders[0].parent
    for folder in folders:
        if not WNID.fullmatch(folder.name):
            raise ValueError(f"{parent} must hold folders called by wnids (n01440764), got {folder.name}")
    if count is not None and len(folders) != count:
        raise ValueError(f"{parent} must hold {count} folders, got {len(folders)}")


def _wnids(root: Path) -> list[str]:
    """The thousand wnids in their order."""
    path = place(root, "imagenet_wnids.txt", "imagenet/val", "imagenet-1k/val")
    wnids = [f.name for f in class_folders(path)] if path.is_dir() else read_text(path).split()
    if len(wnids) != CLASSES or wnids != sorted(set(wnids)):
        raise ValueError(f"{path} must hold {CLASSES} wnids in the order of their names, got {len(wnids)}")
    return wnids
