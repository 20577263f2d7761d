"""All benchmarks: a new one is a file beside this and a line here.

The user calls one by its function's name, or, where it reads a file or folder of the user's choice, as ``KIND:PATH``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eval.benchmark import Benchmark
from eval.benchmarks.aro import aro_attribution, aro_relation
from eval.benchmarks.cifar import cifar10, cifar10_own, cifar100, cifar100_own
from eval.benchmarks.clipself_boxes import coco_panoptic_clipself
from eval.benchmarks.coco_boxes import coco_boxes, lvis_boxes
from eval.benchmarks.coco_captions import coco_karpathy, coco_karpathy_1k, coco_val2017, coco_val2017_all
from eval.benchmarks.dci import dci, dci_extra, dci_long
from eval.benchmarks.docci import docci, docci_goal
from eval.benchmarks.fgovd import FgovdFile, fgovd, fgovd_attributes, fgovd_attributes_crop, fgovd_crop
from eval.benchmarks.flickr30k import flickr30k, flickr30k_all, flickr30k_val
from eval.benchmarks.flickr30k_entities import flickr30k_entities, flickr30k_entities_attention
from eval.benchmarks.iiw import iiw
from eval.benchmarks.image_folder import ImageFolder
from eval.benchmarks.imagenet import imagenet, imagenet_a, imagenet_o, imagenet_r, imagenet_v2
from eval.benchmarks.oracle import OracleFile
from eval.benchmarks.panoptic_boxes import coco_panoptic_boxes
from eval.benchmarks.refcoco import REFCOCO
from eval.benchmarks.retrieval_file import RetrievalFile
from eval.benchmarks.segmentation import Segmentation
from eval.benchmarks.sharegpt4v import sharegpt4v_1k, sharegpt4v_10k
from eval.benchmarks.sugarcrepe import sugarcrepe
from eval.benchmarks.urban1k import urban1k
from eval.benchmarks.webdataset import WebDataset
from eval.benchmarks.winoground import winoground

BENCHMARKS: tuple[Benchmark, ...] = (
    *(coco_boxes, lvis_boxes, coco_panoptic_boxes, coco_panoptic_clipself),
    *(urban1k, sharegpt4v_1k, sharegpt4v_10k, docci, docci_goal, dci, dci_extra, dci_long, iiw),
    *(coco_karpathy, coco_karpathy_1k, coco_val2017, coco_val2017_all, flickr30k, flickr30k_val, flickr30k_all),
    *(fgovd, fgovd_crop, fgovd_attributes, fgovd_attributes_crop),
    *(sugarcrepe, aro_relation, aro_attribution, winoground),
    *(imagenet, imagenet_v2, imagenet_a, imagenet_o, imagenet_r, cifar10, cifar10_own, cifar100, cifar100_own),
    *(flickr30k_entities, flickr30k_entities_attention, *REFCOCO),
)
ON_A_PATH: Mapping[str, Callable[[str], Benchmark]] = {
    "retrieval": RetrievalFile,
    "fgovd": FgovdFile,
    "folder": ImageFolder,
    "wds": WebDataset,
    "segmentation": Segmentation,
    "oracle": OracleFile,
}


def benchmark(name: str) -> Benchmark:
    """The benchmark called ``name`` or ``KIND:PATH``. Raises ValueError, naming all, where there is none."""
    kind, colon, path = name.partition(":")
    if colon and path and kind in ON_A_PATH:
        return ON_A_PATH[kind](path)
    for one in BENCHMARKS:
        if one.__name__ == name:
            return one
    raise ValueError(f"--benchmark must be of {', '.join(names())}, got {name!r}")


def names() -> list[str]:
    """What ``benchmark`` takes."""
    return [*(one.__name__ for one in BENCHMARKS), *(f"{kind}:PATH" for kind in ON_A_PATH)]
