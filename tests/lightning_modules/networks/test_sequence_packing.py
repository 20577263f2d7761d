"""Packing: every text whole, alone in its places, and few places empty."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.networks.sequence_packing import fit_rows, pack, row_length


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 64))
def test_no_text_is_cut_or_overlaps(lengths, room):
    rows, starts = fit_rows(lengths, room)
    taken = set()
    for row, start, length in zip(rows, starts, lengths, strict=True):
        assert 0 <= start <= room - length
        places = {(row, start + i) for i in range(length)}
        assert not places & taken
        taken |= places
    assert set(rows) == set(range(max(rows) + 1))
    # best fit leaves at most one row half empty
    filled = [sum(n for r, n in zip(rows, lengths, strict=True) if r == row) for row in range(max(rows) + 1)]
    assert sum(2 * f <= room for f in filled) <= 1


def test_a_captions_worth_of_texts_fills_its_rows():
    """Like a batch: captions of 80 to 240 tokens, five sentences and thirty phrases each."""
    generator = torch.Generator().manual_seed(0)
    lengths = [
        *torch.randint(80, 240, (64,), generator=generator).tolist(),
        *torch.randint(10, 50, (320,), generator=generator).tolist(),
        *torch.randint(3, 9, (1920,), generator=generator).tolist(),
    ]
    room = row_length(lengths, 248)
    rows, _ = fit_rows(lengths, room)
    assert sum(lengths) / (room * (max(rows) + 1)) > 0.98


def test_row_length():
    assert row_length([130, 5], 248) == 136  # the longest text, in eights
    assert row_length([5] * 100, 248) == 64  # short texts share longer rows
    assert row_length([5, 6], 248) == 16  # but not longer than all of them together
    assert row_length([75], 77) == 80  # in eights where the context is not
    assert row_length([75], 64 + 13, (64, 96)) == 80  # and not longer than that


def test_rows_restart_positions_and_look_only_at_their_own_past():
    offsets = [0, 3, 5, 9]
    packed = pack(torch.arange(10, 19), offsets, 248)
    assert packed.tokens.shape == (1, 16)
    assert torch.equal(packed.tokens.flatten()[packed.slot], torch.arange(10, 19))
    assert packed.positions.flatten()[packed.slot].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    owner = torch.full((16,), -1)
    owner[packed.slot] = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    for query in range(16):
        for key in range(16):
            assert packed.mask[0, 0, query, key] == (owner[query] == owner[key] and key <= query)
