"""Data: shards of images with captions, sentences, phrases and regions, and the batches made of them.

Names are imported when they are first asked for: the benchmarks need the batch's types without Lightning behind them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.batch import Batch, Grain, Slots, Texts
    from datamodules.module import GranularityData, SceneSet
    from datamodules.sample import Choice, Phrase, Region, Sample, SampleError
    from datamodules.sampling import GrainSampling
    from datamodules.shards import ShardError
    from datamodules.skips import DataError, SkipPolicy
    from datamodules.tokenizer import Tokenizer
    from datamodules.transforms import CenterCrop, RandomCrop, Squash

_HOMES = {
    "batch": ("Batch", "Grain", "Slots", "Texts"),
    "module": ("GranularityData", "SceneSet"),
    "sample": ("Choice", "Phrase", "Region", "Sample", "SampleError"),
    "sampling": ("GrainSampling",),
    "shards": ("ShardError",),
    "skips": ("DataError", "SkipPolicy"),
    "tokenizer": ("Tokenizer",),
    "transforms": ("CenterCrop", "RandomCrop", "Squash"),
}

__all__ = [
    "Batch",
    "CenterCrop",
    "Choice",
    "DataError",
    "Grain",
    "GrainSampling",
    "GranularityData",
    "Phrase",
    "RandomCrop",
    "Region",
    "Sample",
    "SampleError",
    "SceneSet",
    "ShardError",
    "SkipPolicy",
    "Slots",
    "Squash",
    "Texts",
    "Tokenizer",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"datamodules.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
