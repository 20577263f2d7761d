"""Summaries of a batch's captions: the short texts that MulCLIP and GrainClip contrast with whole images."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules import GrainSampling
from datamodules.batch import Batch, Grain
from lightning_modules.methods.base import Features
from lightning_modules.methods.data_check import MethodError
from losses.core.host_copies import derived


class Summaries(NamedTuple):
    """An image's summary, where it has one: what a global contrast takes beside the images."""

    texts: Float[Tensor, "B D"]
    valid: Bool[Tensor, " B"]
    ids: Int[Tensor, " B"]


def summaries(batch: Batch, features: Features) -> Summaries:
    """The features of each image's one summary; the data must sample it (``data.sampling.summaries`` 1)."""
    slots = batch.grains[Grain.SUMMARY]
    valid = derived(lambda mask: mask[:, 0], slots.valid)
    return Summaries(features.texts_at(slots)[:, 0], valid, batch.texts.ids[slots.index][:, 0])


def check_summaries(sampling: GrainSampling) -> None:
    """Stop where the data samples no summaries though their term has a weight. Raises MethodError."""
    if sampling.summaries == 0:
        raise MethodError("data.sampling.summaries must be 1 where short_weight is above 0, got 0")
