"""ImageNet-1k and its variants V2, A, O and R: OpenAI's class names and 80 prompts.

Read from the released folders::

    imagenet/val/nXXXXXXXX/*.JPEG               50,000 images; the class is the rank of its wnid among the 1000
    imagenetv2-matched-frequency-format-val/N/*.jpeg        the class is the folder's number, not its rank as a text
    imagenet-a/nXXXXXXXX/*  imagenet-o/...  imagenet-r/...  200 of the 1000 classes each, the only candidates

The folders of A, O and R are their 200 classes; the rank of a wnid comes from ``imagenet/val`` or from a file
``imagenet_wnids.txt``, a wnid a line, a thousand in all. FG-CLIP's squash is ``--fit squash``.

As published: ImageNet-O is top-1 over its 200 classes, not the area under the curve of its paper.
"""

from __future__ import annotations

import re
from pathlib import Path

from eval.data.find_file import find_path
from eval.data.image_folders import class_folders, labelled_images
from eval.data.records import read_text
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.prompts import imagenet_classes, imagenet_templates
from eval.protocols.zero_shot_classification import LabelledImages, classify_images

WNID = re.compile(r"n\d{8}")
CLASSES = 1000
PROTOCOL = "80 prompts of OpenAI, the first of equal classes is chosen; published number top1"


def imagenet(model: Model, run: EvalContext) -> Result:
    """The validation images, 1000 classes."""
    folders = class_folders(find_path(run.root, "imagenet/val", "imagenet-1k/val", "val"))
    _expect(folders, CLASSES)
    images, labels = labelled_images(zip(run.track(folders, "imagenet: folders"), range(CLASSES), strict=True))
    data = LabelledImages(images, labels, imagenet_classes())
    return classify_images("imagenet", model, run, data, imagenet_templates(), PROTOCOL)


def imagenet_v2(model: Model, run: EvalContext) -> Result:
    """Matched frequency, 10,000 images."""
    root = find_path(run.root, "imagenetv2-matched-frequency-format-val", "imagenetv2")
    folders = class_folders(root)
    for folder in folders:
        if not (folder.name.isdigit() and int(folder.name) < CLASSES):
            raise ValueError(f"{root} must hold folders 0 to {CLASSES - 1}, got {folder.name}")
    images, labels = labelled_images((folder, int(folder.name)) for folder in folders)
    data = LabelledImages(images, labels, imagenet_classes())
    return classify_images("imagenet_v2", model, run, data, imagenet_templates(), PROTOCOL)


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
    folders = class_folders(find_path(run.root, folder))
    ranks = {wnid: i for i, wnid in enumerate(_wnids(run.root))}
    names = imagenet_classes()
    _expect(folders, None)
    for path in folders:
        if path.name not in ranks:
            raise ValueError(f"{path.parent} must hold folders of ImageNet-1k's wnids, got {path.name}")
    images, labels = labelled_images((path, label) for label, path in enumerate(folders))
    data = LabelledImages(images, labels, [names[ranks[path.name]] for path in folders])
    return classify_images(name, model, run, data, imagenet_templates(), f"{PROTOCOL}, over {len(folders)} classes")


def _expect(folders: list[Path], count: int | None) -> None:
    parent = folders[0].parent
    for folder in folders:
        if not WNID.fullmatch(folder.name):
            raise ValueError(f"{parent} must hold folders called by wnids (n01440764), got {folder.name}")
    if count is not None and len(folders) != count:
        raise ValueError(f"{parent} must hold {count} folders, got {len(folders)}")


def _wnids(root: Path) -> list[str]:
    """The thousand wnids in their order."""
    path = find_path(root, "imagenet_wnids.txt", "imagenet/val", "imagenet-1k/val")
    wnids = [f.name for f in class_folders(path)] if path.is_dir() else read_text(path).split()
    if len(wnids) != CLASSES or wnids != sorted(set(wnids)):
        raise ValueError(f"{path} must hold {CLASSES} wnids in the order of their names, got {len(wnids)}")
    return wnids
