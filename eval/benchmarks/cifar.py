"""CIFAR-10 and CIFAR-100: the 10,000 test images, 32×32, from the released pickles, read without running their code.

    cifar-10-batches-py/{test_batch,batches.meta}   cifar-100-python/{test,meta}

Class names come from the files. ``cifar10`` and ``cifar100`` follow Long-CLIP: names keep their underscore
(``aquarium_fish``) and are put into ImageNet's 80 prompts. ``cifar10_own`` and ``cifar100_own`` follow CLIP_benchmark:
names with spaces in OpenAI's 18 prompts for CIFAR.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from eval.data.find_file import find_path
from eval.data.restricted_pickle import read_pickle
from eval.data.sources import ImagePixels
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.prompts import CIFAR_TEMPLATES, imagenet_templates
from eval.protocols.zero_shot_classification import LabelledImages, classify_images

LONG_CLIP = "Long-CLIP: the files' class names in ImageNet's 80 prompts; published number top1"
OWN = "CLIP_benchmark: class names with spaces in OpenAI's 18 prompts for CIFAR; published number top1"


def cifar10(model: Model, run: EvalContext) -> Result:
    """10 classes, 80 prompts."""
    return classify_images("cifar10", model, run, _ten(run.root), imagenet_templates(), LONG_CLIP)


def cifar100(model: Model, run: EvalContext) -> Result:
    """100 classes, 80 prompts."""
    return classify_images("cifar100", model, run, _hundred(run.root), imagenet_templates(), LONG_CLIP)


def cifar10_own(model: Model, run: EvalContext) -> Result:
    """10 classes, 18 prompts."""
    return classify_images("cifar10_own", model, run, _ten(run.root), CIFAR_TEMPLATES, OWN)


def cifar100_own(model: Model, run: EvalContext) -> Result:
    """100 classes, 18 prompts."""
    data = _hundred(run.root)
    data.classes = [name.replace("_", " ") for name in data.classes]
    return classify_images("cifar100_own", model, run, data, CIFAR_TEMPLATES, OWN)


def _ten(root: Path) -> LabelledImages:
    folder = find_path(root, "cifar-10-batches-py")
    return _read(folder / "test_batch", "labels", folder / "batches.meta", "label_names")


def _hundred(root: Path) -> LabelledImages:
    folder = find_path(root, "cifar-100-python")
    return _read(folder / "test", "fine_labels", folder / "meta", "fine_label_names")


def _read(test: Path, labels: str, meta: Path, names: str) -> LabelledImages:
    stored, classes = read_cifar(test), read_cifar(meta)
    for path, stored_fields, field in ((test, stored, "data"), (test, stored, labels), (meta, classes, names)):
        if field not in stored_fields:
            raise ValueError(f"{path} must hold {field!r}, got {', '.join(map(str, stored_fields))}")
    data, stored_labels = stored["data"], stored[labels]
    if not (
        isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape == (len(stored_labels), 3 * 32 * 32)
    ):
        raise ValueError(f"{test}: 'data' must be {len(stored_labels)} rows of 3072 bytes, got {np.shape(data)}")
    images = [
        ImagePixels(f"{i:05d}", p) for i, p in enumerate(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy())
    ]
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (test, meta)}
    return LabelledImages(list(images), [int(n) for n in stored_labels], list(classes[names]), files)


def _encoded(text: str, coding: str) -> bytes:
    return text.encode(coding)


_reconstruct: Any = np.zeros(1, np.uint8).__reduce__()[0]
_KNOWN: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encoded,
}


def read_cifar(path: Path) -> dict[str, Any]:
    """The dictionary of a file, with bytes decoded to texts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds more than CIFAR's files do.
    """
    document = read_pickle(path, _KNOWN)
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(document).__name__}")
    return {
        _text(key): [_text(v) for v in value] if isinstance(value, list) else value for key, value in document.items()
    }


def _text(value: Any) -> Any:
    """Decode bytes: texts that Python 2 pickled may load as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value
