"""Indices of the texts and slots in use in a batch, from what the host knows, without waiting for the device."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.batch import Batch, Grain, RaggedTexts, TextSlots, join
from losses.core.host_copies import derived, on_device, on_host


class SelectedTexts(NamedTuple):
    """Some of a batch's texts, and where they and their tokens stand among all."""

    texts: RaggedTexts
    rows: Int[Tensor, " u"]
    token_rows: Int[Tensor, " t"]


def text_rows(batch: Batch, grains: Collection[Grain]) -> Int[np.ndarray, " u"]:
    """The unique texts that stand in slots of these grains, ascending; the first of all where none does, as a tower
    encodes at least one.
    """
    used = np.zeros(len(batch.texts.ids), dtype=bool)
    for grain in grains:
        slots = batch.grains[grain]
        used[on_host(slots.index)[on_host(slots.valid)]] = True
    used[:1] |= not used.any()
    return np.flatnonzero(used)


def text_lengths(batch: Batch, grains: Collection[Grain]) -> Int[np.ndarray, " u"]:
    """Tokens of each of these texts."""
    return np.diff(on_host(batch.texts.offsets))[text_rows(batch, grains)]


def select_texts(texts: RaggedTexts, rows: Int[np.ndarray, " u"]) -> SelectedTexts:
    """The texts of ``rows``, in that order."""
    device, all_offsets = texts.tokens.device, on_host(texts.offsets)
    lengths = np.diff(all_offsets)[rows]
    offsets = np.concatenate([[0], lengths.cumsum()])
    where = np.stack([rows, lengths, all_offsets[rows] - offsets[:-1]])
    device_rows, device_lengths, shift = on_device(where, device)
    tokens = int(offsets[-1])
    token_rows = torch.repeat_interleave(shift, device_lengths, output_size=tokens)
    token_rows = token_rows + torch.arange(tokens, device=device)
    selected = RaggedTexts(texts.tokens[token_rows], on_device(offsets, device), texts.ids[device_rows])
    return SelectedTexts(selected, device_rows, token_rows)


def slots_of(batch: Batch, grains: Collection[Grain]) -> TextSlots:
    """Several grains as one, slot after slot: [B, K1 + K2 + ...]."""
    slots = [batch.grains[grain] for grain in grains]
    valid = derived(lambda *masks: torch.cat(masks, dim=1), *(one.valid for one in slots))
    return join(*slots)._replace(valid=valid)


def scattered(values: Float[Tensor, "n D"], rows: Int[Tensor, " n"], count: int) -> Float[Tensor, "count D"]:
    """A matrix of ``count`` rows with ``values`` in ``rows`` and zeros elsewhere."""
    return values.new_zeros(count, values.shape[1]).index_copy(0, rows, values)
