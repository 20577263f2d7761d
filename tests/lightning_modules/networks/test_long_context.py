"""The stretched position table, and rows that stay frozen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_modules.networks import DualEncoder, PositionTable, stretch_positions


@pytest.fixture
def table():
    return torch.randn(77, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_stretch_to_248_is_long_clips(table):
    """The published formula, row by row: every old step from 20 on becomes four."""
    expected = []
    for p in range(248):
        i, r = divmod(p - 20, 4)
        if p < 20:
            expected.append(table[p])
        elif i <= 55:
            expected.append((1 - r / 4) * table[20 + i] + r / 4 * table[21 + i])
        else:
            expected.append(table[76] + r / 4 * (table[76] - table[75]))
    assert torch.equal(stretch_positions(table, 248)[:20], table[:20])
    torch.testing.assert_close(stretch_positions(table, 248), torch.stack(expected), rtol=0, atol=1e-15)


def test_stretch_to_any_length(table):
    """A straight line stays one, at any length; the same length changes nothing."""
    line = torch.arange(77, dtype=torch.float64)[:, None]
    for length in (77, 78, 100, 248, 300):
        step = 57 / (length - 20)
        expected = torch.tensor([p if p < 20 else 20 + (p - 20) * step for p in range(length)], dtype=torch.float64)
        torch.testing.assert_close(stretch_positions(line, length).squeeze(), expected)
    torch.testing.assert_close(stretch_positions(table, 77), table, rtol=0, atol=1e-15)


def test_stretch_refuses(table):
    with pytest.raises(ValueError, match="at least the table's 77 rows, got 60"):
        stretch_positions(table, 60)
    with pytest.raises(ValueError, match="at least kept \\+ 2 = 22 rows"):
        stretch_positions(table[:21], 60)


@pytest.mark.parametrize("frozen", [0, 4])
def test_lookup_is_an_embedding(table, frozen):
    positions = torch.tensor([[0, 3, 4, 76], [5, 5, 0, 1]])
    assert torch.equal(PositionTable(table, frozen)(positions), table[positions])


def test_only_trained_rows_move(small, random_texts, ragged):
    """Neither the gradient nor a large weight decay reaches the frozen rows."""
    encoder = DualEncoder(replace(small, frozen_positions=5)).train()
    positions = encoder.text_tower.transformer.embeddings.position_embedding
    before = positions.weight.detach().clone()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, weight_decay=1.0)
    encoder.encode_text(ragged(random_texts((12, 4)))).tokens.square().sum().backward()
    assert positions.trained.shape == (small.context_length - 5, small.text_width)
    assert positions.trained.grad[:7].abs().amin() > 0  # positions 5 to 11 were read
    optimizer.step()
    moved = (positions.weight - before).abs().amax(-1)
    assert torch.equal(positions.weight[:5], before[:5])
    assert (moved[5:] > 0).all()


def test_whole_tables_in_and_out(table):
    positions = PositionTable(torch.zeros_like(table), frozen=20)
    positions.load_table(table)
    assert torch.equal(positions.weight, table)
    assert {name: len(t) for name, t in positions.state_dict().items()} == {"frozen": 20, "trained": 57}
    with pytest.raises(ValueError, match=r"shape \(77, 6\), got \(76, 6\)"):
        positions.load_table(table[1:])


def test_frozen_must_leave_rows_to_train(table):
    with pytest.raises(ValueError, match="frozen must lie in \\[0, 77\\)"):
        PositionTable(table, 77)
