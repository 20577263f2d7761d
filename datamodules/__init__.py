"""Data: shards of images with captions, sentences, phrases and regions, and the batches made of them."""

from datamodules.batch import Batch, Grain, Slots, Texts
from datamodules.module import GranularityData, SceneSet
from datamodules.sample import Choice, Phrase, Region, Sample, SampleError
from datamodules.sampling import GrainSampling
from datamodules.stream import DataError, SkipPolicy
from datamodules.tokenizer import Tokenizer
from datamodules.transforms import CenterCrop, RandomCrop, Squash

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
    "SkipPolicy",
    "Slots",
    "Squash",
    "Texts",
    "Tokenizer",
]
