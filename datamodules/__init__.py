"""Data: shards of images with captions, sentences, phrases and regions, and the batches made of them.

Names are imported on first use: the benchmarks need the batch's types without importing Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.batch import Batch, Grain, RaggedTexts, TextSlots
    from datamodules.batching.image_transforms import CenterCrop, RandomCrop, Squash
    from datamodules.batching.text_sampling import GrainSampling
    from datamodules.batching.tokenizer import Tokenizer
    from datamodules.datamodule import GranularityData, SceneSet
    from datamodules.prepare.pairs import PairError, PairReading
    from datamodules.reading.bad_samples import DataError, SkipPolicy
    from datamodules.sample import Choice, Phrase, Region, Sample, SampleError
    from datamodules.shards.discovery import ShardError

_HOMES = {
    "batch": ("Batch", "Grain", "TextSlots", "RaggedTexts"),
    "datamodule": ("GranularityData", "SceneSet"),
    "sample": ("Choice", "Phrase", "Region", "Sample", "SampleError"),
    "batching.text_sampling": ("GrainSampling",),
    "shards.discovery": ("ShardError",),
    "reading.bad_samples": ("DataError", "SkipPolicy"),
    "prepare.pairs": ("PairError", "PairReading"),
    "batching.tokenizer": ("Tokenizer",),
    "batching.image_transforms": ("CenterCrop", "RandomCrop", "Squash"),
}

__all__ = [
    "Batch",
    "CenterCrop",
    "Choice",
    "DataError",
    "Grain",
    "GrainSampling",
    "GranularityData",
    "PairError",
    "PairReading",
    "Phrase",
    "RaggedTexts",
    "RandomCrop",
    "Region",
    "Sample",
    "SampleError",
    "SceneSet",
    "ShardError",
    "SkipPolicy",
    "Squash",
    "TextSlots",
    "Tokenizer",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"datamodules.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
