"""The batch: the contract between data, methods and benchmarks.

All texts of a batch, of every grain, are **one ragged set of unique token sequences**. A grain (caption, sentence...)
is an index ``[B, K]`` into that set with a mask. So a phrase that stands in many images is encoded once, no text is
padded to another's length, and "is this the same text?" is an integer comparison, across ranks too (``ids``).

Axis letters: B images, K texts of a grain, U unique texts, T their tokens together, R regions, Q questions,
N candidates, C crops.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class Grain(str, Enum):
    """The grains at which a caption is read, coarse to fine."""

    CAPTION = "caption"
    SUMMARY = "summary"
    SENTENCE = "sentence"
    PHRASE = "phrase"


class RaggedTexts(NamedTuple):
    """The unique token sequences of a batch, end to end; sequence ``u`` is ``tokens[offsets[u]:offsets[u + 1]]``."""

    tokens: Int[Tensor, " T"]  # SOT and EOT included, nothing padded
    offsets: Int[Tensor, " U+1"]
    ids: Int[Tensor, " U"]  # 64-bit hash of the sequence: equal texts have equal ids on every rank


class TextSlots(NamedTuple):
    """The text of every slot of an image at one grain; an invalid slot points at text 0 and means nothing."""

    index: Int[Tensor, "B K"]  # pyright: ignore[reportIncompatibleMethodOverride] a field, no tuple.index
    valid: Bool[Tensor, "B K"]


def join(*grains: TextSlots) -> TextSlots:
    """Several grains as one, slot after slot: [B, K1 + K2 + ...]."""
    return TextSlots(torch.cat([g.index for g in grains], dim=1), torch.cat([g.valid for g in grains], dim=1))


class Lexemes(NamedTuple):
    """Token spans of the phrases of ``grains[Grain.PHRASE]`` in their caption's own token sequence.

    ``span`` is [start, end) in tokens, SOT being token 0; (0, 0) where the encoded caption does not hold all of it.
    ``lemma`` is a 64-bit hash of the head's base form, 0 where unknown.
    """

    span: Int[Tensor, "B K 2"]
    lemma: Int[Tensor, "B K"]


class Regions(NamedTuple):
    """All boxes of the batch, ragged over images; each distinct box once."""

    boxes: Float[Tensor, "R 4"]  # x0, y0, x1, y1 in fractions of the transformed image
    image: Int[Tensor, " R"]  # row of the batch
    label: Int[Tensor, " R"]  # 64-bit hash of the label, 0 where it has none
    links: Int[Tensor, "M 2"]  # (row of boxes, phrase slot of that image): many-to-many


class Crops(NamedTuple):
    """Some boxes as images of their own, for methods that compare a region with a crop of it."""

    pixels: Shaped[Tensor, "C 3 H W"]  # as ``Batch.images``
    region: Int[Tensor, " C"]  # row of ``Regions``


class MultipleChoice(NamedTuple):
    """Multiple-choice questions about regions: which of N texts describes the box? Candidate 0 does.

    ``level`` indexes ``levels``.
    """

    region: Int[Tensor, " Q"]
    level: Int[Tensor, " Q"]
    index: Int[Tensor, "Q N"]  # into Texts  # pyright: ignore[reportIncompatibleMethodOverride]
    valid: Bool[Tensor, "Q N"]
    levels: tuple[str, ...]


class Gap(NamedTuple):
    """A remote shard that was not whole: the number of samples that a reader got of it, and its place in the order."""

    readers: int
    reader: int
    source: int
    epoch: int
    shard: int
    samples: int


class Skip(NamedTuple):
    """One sample that cannot be used; ``samples`` is above 1 where a whole shard is lost."""

    reason: str
    shard: str
    key: str
    message: str
    samples: int = 1
    gap: Gap | None = None


class Batch(NamedTuple):
    """The loader's output, read by every method and benchmark. Lightning moves it between devices.

    A validation batch may hold no image (B = 0): all ranks have the same number of batches, and one rank may have no
    usable sample left. It then has a single empty text, which stands in no slot.
    """

    images: Shaped[Tensor, "B 3 H W"]  # uint8 from the loader; normalised floats once on the device
    texts: RaggedTexts
    grains: dict[Grain, TextSlots]
    lexemes: Lexemes
    regions: Regions
    crops: Crops
    choices: MultipleChoice
    keys: list[str]  # the samples' names in their shards, for people: they may repeat
    ids: Int[Tensor, " B"]  # 64-bit identities: a hash of shard and number
    skipped: list[Skip]  # since the loader's previous batch
    counts: dict[str, int]  # since the loader's previous batch: "skipped/REASON", "truncated/GRAIN", "dropped/WHAT"
