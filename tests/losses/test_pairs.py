from __future__ import annotations

import pytest
import torch

from losses.core import pairs
from losses.core.pairs import Labels, NegativePairs
from losses.core.process_group import ProcessGroup


def labels(block: torch.Tensor, part: torch.Tensor | None = None, ids: torch.Tensor | None = None) -> Labels:
    return Labels(block.numpy(), block, None if part is None else part.numpy(), ids)


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("with_parts", [False, True])
def test_tiles_hold_each_pair_of_a_part_once(monkeypatch, with_parts, with_ids):
    monkeypatch.setitem(pairs.TILE, "cpu", 4)
    block = torch.tensor([0, 0, 0, 1, 3, 3, 4, 4, 4, 5, 6])
    part = torch.tensor([0, 0, 2, 2, 2, 4, 4]) if with_parts else torch.zeros(7, dtype=torch.int64)
    col_block = block[torch.tensor([0, 3, 4, 5, 6, 9, 10, 10])]
    row_ids = torch.arange(22).view(11, 2) % 6 if with_ids else None
    col_ids = torch.arange(8)[:, None] if with_ids else None
    row_labels, col_labels = (
        labels(blocks, part[blocks] if with_parts else None, ids)
        for blocks, ids in ((block, row_ids), (col_block, col_ids))
    )
    pairs_of_rank = NegativePairs(row_labels, col_labels, ProcessGroup())
    times = torch.zeros(11, 8, dtype=torch.int64)
    out = torch.zeros(11, 8, dtype=torch.bool)
    for tile in pairs_of_rank.tiles:
        times[tile.rows, tile.cols] += 1
        left_out = pairs_of_rank.left_out(tile)
        out[tile.rows, tile.cols] = False if left_out is None else left_out
        assert tile.rows.stop - tile.rows.start <= 4
        assert tile.cols.stop - tile.cols.start <= 4
    for i in range(11):
        for j in range(8):
            same_part = bool(part[block[i]] == part[col_block[j]])
            shared_id = row_ids is not None and j in row_ids[i].tolist()
            assert times[i, j] == same_part
            assert out[i, j] == (same_part and (bool(block[i] == col_block[j]) or shared_id))


def test_far_tiles_need_no_mask(monkeypatch):
    monkeypatch.setitem(pairs.TILE, "cpu", 10)
    side = labels(torch.arange(100) // 4)
    tiles = NegativePairs(side, side, ProcessGroup()).tiles
    assert len(tiles) == 100
    assert sum(tile.near for tile in tiles) < 30


@pytest.mark.parametrize("rows", [0, 3])
def test_one_empty_side_makes_no_tile(rows):
    filled, empty = (labels(torch.zeros(n, dtype=torch.int64)) for n in (rows, 0))
    assert NegativePairs(filled, empty, ProcessGroup()).tiles == []
    assert NegativePairs(empty, filled, ProcessGroup()).tiles == []
