"""Every rank has equally many validation batches: ranks that wait for each other do not hang."""

from __future__ import annotations

from itertools import product

import pytest

from datamodules.reading.local_shards import IndexedPass
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.shards.discovery import find_shards
from datamodules.shards.reader import IndexedShards
from tests.datamodules.test_indexed import PREPARE
from tests.helpers.tiny import write_shards


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Of so many samples each."""
    folders = {count: tmp_path_factory.mktemp(f"of{count}") for count in (8, 9, 12, 13, 16, 17)}
    return {n: IndexedShards.of(find_shards([str(p) for p in write_shards(f, n, 1)])) for n, f in folders.items()}


def parts(source, batch, ranks):
    return [IndexedPass(source, ReaderSettings(PREPARE, batch, rank=rank, ranks=ranks)) for rank in range(ranks)]


def test_equally_many_batches_whatever_the_number_of_samples(sources):
    for (count, source), batch, ranks in product(sources.items(), (2, 3, 4), (1, 2, 3)):
        sides = parts(source, batch, ranks)
        assert len({len(side) for side in sides}) == 1
        for side in sides:
            sizes = [side._start(i + 1) - side._start(i) for i in range(len(side))]
            assert sum(sizes) == len(side.mine)
            assert all(1 <= size <= batch for size in sizes), (count, batch, ranks, sizes)


def test_one_sample_more_on_a_rank(sources):
    """9 samples on two ranks in batches of four: 4 + 1 and 3 + 1, where it would have been two batches and one."""
    sizes = [[len(side[i].keys) for i in range(len(side))] for side in parts(sources[9], 4, 2)]
    assert sizes == [[4, 1], [3, 1]]


def test_fewer_samples_than_batches(sources):
    """9 samples on two ranks in batches of one: the second rank's last batch is empty."""
    sizes = [[len(side[i].keys) for i in range(len(side))] for side in parts(sources[9], 1, 2)]
    assert sizes == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
