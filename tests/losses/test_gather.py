from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from losses.core.process_group import ProcessGroup, shared_mean
from tests.helpers.ranks import run_on_ranks

COUNTS = [3, 0, 2, 5]


def rows_of(rank, dtype=torch.float64):
    return 10.0 * rank + torch.arange(COUNTS[rank] * 2, dtype=dtype).view(-1, 2)


def move_rows(world_size):
    ranks = ProcessGroup.world()
    rows = rows_of(ranks.index)
    counts = ranks.counts(len(rows), rows.device)
    all_rows = ranks.gather(rows, counts)
    return {
        "counts": counts,
        "gathered": all_rows,
        "hashes": ranks.gather(rows.long() + 2**40, counts),
        "mine": ranks.local(all_rows, counts),
        "summed": ranks.scatter_sum(all_rows * (ranks.index + 1), counts),
        "total": ranks.total(torch.tensor([1.0, ranks.index])),
        "maximum": ranks.maximum(torch.tensor([float(ranks.index), -1.0 - ranks.index])),
        "mean": shared_mean(rows.sum(), torch.tensor(float(len(rows)), dtype=rows.dtype)),
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_blocks_of_different_length_find_their_way(world_size):
    all_rows = torch.cat([rows_of(rank) for rank in range(world_size)])
    results = run_on_ranks(move_rows, world_size, world_size)
    for rank, result in enumerate(results):
        assert result["counts"] == COUNTS[:world_size]
        assert torch.equal(result["gathered"], all_rows)
        assert torch.equal(result["hashes"], all_rows.long() + 2**40)
        assert torch.equal(result["mine"], rows_of(rank))
        assert torch.equal(result["summed"], rows_of(rank) * sum(range(world_size + 1)))
        assert result["total"].tolist() == [world_size, sum(range(world_size))]
        assert result["maximum"].tolist() == [world_size - 1, -1]
    mean = torch.stack([result["mean"] for result in results]).mean()
    torch.testing.assert_close(mean, all_rows.sum() / len(all_rows))


def test_one_process_needs_no_process_group():
    assert not dist.is_initialized()
    ranks, x = ProcessGroup.world(), torch.randn(3, 2)
    counts = ranks.counts(3, x.device)
    assert ranks == ProcessGroup(0, 1)
    assert counts == [3]
    for moved in (ranks.gather(x, counts), ranks.scatter_sum(x, counts), ranks.local(x, counts), ranks.maximum(x)):
        assert torch.equal(moved, x)


def test_mean_of_nothing_is_zero_on_the_graph():
    x = torch.ones(0, requires_grad=True)
    mean = shared_mean(x.sum(), torch.tensor(0.0))
    mean.backward()
    assert mean.item() == 0
    assert x.grad is not None


def fail_on_rank_one():
    if dist.get_rank() == 1:
        raise RuntimeError("rank 1 is unwell")


def test_an_error_on_a_rank_is_raised():
    with pytest.raises(Exception, match="rank 1 is unwell"):
        run_on_ranks(fail_on_rank_one, 2)
