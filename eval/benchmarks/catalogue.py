"""All benchmarks: a new one is a file in this folder and a name in this catalogue.

The user selects a benchmark by its function's name, or, where it reads a file or folder of the user's choice, as
``KIND:PATH``. Its file is imported on demand, so that the command's help need not wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from datamodules.spelling import did_you_mean

if TYPE_CHECKING:
    from eval.interfaces import Benchmark

_FILES: Mapping[str, tuple[str, ...]] = {
    "coco_boxes": ("coco_boxes", "lvis_boxes"),
    "panoptic_boxes": ("coco_panoptic_boxes",),
    "clipself_boxes": ("coco_panoptic_clipself",),
    "urban1k": ("urban1k",),
    "sharegpt4v": ("sharegpt4v_1k", "sharegpt4v_10k"),
    "docci": ("docci", "docci_goal"),
    "himo": ("himo_docci",),
    "dci": ("dci", "dci_extra", "dci_long"),
    "iiw": ("iiw",),
    "coco_captions": ("coco_karpathy", "coco_karpathy_1k", "coco_val2017", "coco_val2017_all"),
    "flickr8k": ("flickr8k", "flickr8k_joined", "flickr8k_dev", "flickr8k_dev_joined"),
    "flickr30k": ("flickr30k", "flickr30k_val", "flickr30k_all"),
    "fgovd": ("fgovd", "fgovd_crop", "fgovd_attributes", "fgovd_attributes_crop"),
    "sugarcrepe": ("sugarcrepe",),
    "aro": ("aro_relation", "aro_attribution"),
    "winoground": ("winoground",),
    "imagenet": ("imagenet", "imagenet_v2", "imagenet_a", "imagenet_o", "imagenet_r"),
    "cifar": ("cifar10", "cifar10_own", "cifar100", "cifar100_own"),
    "flickr30k_entities": ("flickr30k_entities", "flickr30k_entities_attention"),
}
REFCOCO = tuple(f"{data}{ending}" for ending in ("", "_attention") for data in ("refcoco", "refcoco+", "refcocog"))
BENCHMARKS = (*(name for names in _FILES.values() for name in names), *REFCOCO)
ON_A_PATH: Mapping[str, tuple[str, str]] = {  # kind: file, class
    "retrieval": ("retrieval_file", "RetrievalFile"),
    "fgovd": ("fgovd", "FgovdFile"),
    "folder": ("image_folder", "ImageFolder"),
    "wds": ("webdataset", "WebDataset"),
    "himo": ("himo", "HimoPath"),
    "segmentation": ("segmentation", "Segmentation"),
    "shards": ("shards", "Shards"),
    "oracle": ("oracle", "OracleFile"),
}

RETRIEVAL = ("urban1k", "sharegpt4v", "docci", "dci", "iiw", "coco_captions", "flickr8k", "flickr30k")  # files
RETRIEVAL_ON_A_PATH = ("retrieval", "wds", "shards")  # of wds those of captions


def retrieves(name: str) -> bool:
    """True if the benchmark ranks images and texts by cosine, and can re-rank the nearest."""
    kind, colon, _ = name.partition(":")
    return kind in RETRIEVAL_ON_A_PATH if colon else any(name in _FILES[file] for file in RETRIEVAL)


def benchmark(name: str) -> Benchmark:
    """The benchmark called ``name`` or ``KIND:PATH``. Raises ValueError, naming the nearest, where there is none."""
    known(name)
    kind, colon, path = name.partition(":")
    if colon:
        file, class_name = ON_A_PATH[kind]
        return getattr(import_module(f"eval.benchmarks.{file}"), class_name)(path)
    if name in REFCOCO:
        return import_module("eval.benchmarks.refcoco").REFCOCO[name]
    file = next(file for file, names in _FILES.items() if name in names)
    return getattr(import_module(f"eval.benchmarks.{file}"), name)


def find_benchmarks(names: Sequence[str], where: str = "") -> list[Benchmark]:
    """The benchmarks of these names. Raises ValueError, which begins with ``where``, if two would share a name."""
    found = [benchmark(name) for name in names]
    heads: dict[str, str] = {}
    for one in found:
        name = one.__name__
        head = getattr(one, "head", name)
        if head in heads:
            raise ValueError(f"{where}{heads[head]} and {name} would both be called {head}: evaluate them apart")
        heads[head] = name
    return found


def known(name: str) -> str:
    """Return ``name``. Raises ValueError unless it names a benchmark, or a kind with a path."""
    kind, colon, path = name.partition(":")
    if colon and kind in ON_A_PATH:
        if not path:
            raise ValueError(f"{kind}: needs a path behind the colon")
    elif colon:
        raise ValueError(f"KIND:PATH must have a KIND of {', '.join(ON_A_PATH)}, got {name!r}")
    elif name not in BENCHMARKS:
        nearest = did_you_mean(name, [*BENCHMARKS, *ON_A_PATH])
        raise ValueError(f"no benchmark {name!r}{nearest or '; `lightning evaluate --help` lists them'}")
    return name


def names() -> list[str]:
    """The names that ``benchmark`` takes."""
    return [*BENCHMARKS, *(f"{kind}:PATH" for kind in ON_A_PATH)]
