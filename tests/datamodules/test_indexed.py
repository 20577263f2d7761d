"""Local shards by index: the same batches for any ranks, workers and stops; every sample once per pass."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter

import pytest
import torch

from datamodules import GranularityData
from datamodules.batching.collate import SamplePreprocessor
from datamodules.batching.image_transforms import RandomCrop
from datamodules.batching.text_sampling import GrainSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.reading.bad_samples import DataError, SkipPolicy
from datamodules.reading.loader import EpochLoader, PassLoader, default_workers
from datamodules.reading.local_shards import IndexedBatches, IndexedPass
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.sample import SampleError
from datamodules.shards.discovery import ShardError, find_shards
from datamodules.shards.reader import IndexedShards, TarReader
from tests.helpers.tiny import make_sample, write_shards, write_tar

PREPARE = SamplePreprocessor(16, RandomCrop(), GrainSampling(1, 1), Tokenizer(77), random_texts=True)


def batches(urls, batch_size=4, rank=0, ranks=1, skip=None, seed=0, weights=(1.0,), shuffle_shards=2) -> IndexedBatches:
    sources = [urls] if len(weights) == 1 else [[url] for url in urls]
    indexed = [IndexedShards.of(find_shards([str(u) for u in s])) for s in sources]
    settings = ReaderSettings(PREPARE, batch_size, seed, rank, ranks, skip or SkipPolicy())
    return IndexedBatches(indexed, weights, settings, shuffle_shards)


def once(urls, batch_size=4, rank=0, ranks=1, skip=None) -> IndexedPass:
    source = IndexedShards.of(find_shards([str(u) for u in urls]))
    return IndexedPass(source, ReaderSettings(PREPARE, batch_size, 0, rank, ranks, skip or SkipPolicy()))


def keys(batches_read) -> list[str]:
    return [key for batch in batches_read for key in batch.keys]


def pixels(batches_read) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches_read])


def one_run(urls, samples: int, start: int = 0, ranks: int = 1, workers: int = 0, batch: int = 4):
    """Keys and pixels, in global order, of ``samples`` samples from ``start`` on, loaded by so many ranks."""
    sides = [batches(urls, batch // ranks, r, ranks) for r in range(ranks)]
    loaders = [side.loader(start, samples // batch, workers) for side in sides]
    rows = [[b for step in zip(*loaders, strict=True) for b in step]]
    return keys(rows[0]), pixels(rows[0]), [b.texts.tokens for b in rows[0]]


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_stop_anywhere_and_go_on_with_other_ranks_and_workers(tmp_path, shards):
    """Five stops, from one rank to two and four and back, with 0, 1 and 3 workers: bit for bit the same samples."""
    urls = write_shards(tmp_path, 22, shards)
    names, images, _ = one_run(urls, 64)
    for stop, ranks, workers in [(4, 2, 0), (12, 1, 1), (20, 2, 3), (24, 4, 0), (44, 1, 3)]:
        rest, shown, _ = one_run(urls, 64 - stop, stop, ranks, workers)
        assert rest == names[stop:]
        assert torch.equal(shown, images[stop:])
    for epoch in (0, 1):
        assert sorted(names[22 * epoch : 22 * (epoch + 1)]) == [f"{n:06d}" for n in range(22)]
    assert names[:22] != names[22:44]


def test_a_stop_between_batches_of_another_size(tmp_path):
    urls = write_shards(tmp_path, 22, 3)
    names, images, _ = one_run(urls, 48)
    rest, shown, _ = one_run(urls, 36, start=12, batch=12, ranks=3)
    assert rest == names[12:]
    assert torch.equal(shown, images[12:])


def test_whole_batches_are_the_same(tmp_path):
    urls = write_shards(tmp_path, 22, 3)
    whole = list(batches(urls).loader(0, 10, 0))
    rest = list(batches(urls).loader(12, 7, 3))
    for a, b in zip(whole[3:], rest, strict=True):
        assert a.keys == b.keys
        for part in ("texts", "lexemes", "regions", "grains"):
            for x, y in zip(leaves(getattr(a, part)), leaves(getattr(b, part)), strict=True):
                assert torch.equal(x, y)


def leaves(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in leaves(part)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_stopped(tmp_path, workers):
    urls = write_shards(tmp_path, 24, 3)
    whole = list(EpochLoader(batches(urls), 6, workers, lambda: (24, 0)))
    assert sorted(keys(whole)) == [f"{n:06d}" for n in range(24)]
    for done in (1, 2, 5):
        rest = list(EpochLoader(batches(urls), 6, workers, lambda at=done: (24 + 4 * at, at)))
        assert keys(rest) == keys(whole[done:])
        assert torch.equal(pixels(rest), pixels(whole[done:]))


def test_workers_end_with_the_last_batch(tmp_path):
    """Lightning asks for as many batches as there are, and not for the end: workers would wait for the next epoch."""
    urls = write_shards(tmp_path, 8, 1)
    for loader in (EpochLoader(batches(urls), 2, 1, lambda: (0, 0)), PassLoader(once(urls), 1)):
        loaded = iter(loader)
        next(loaded)
        assert len(multiprocessing.active_children()) == 1
        next(loaded)
        assert multiprocessing.active_children() == []


def test_workers_follow_the_cores(monkeypatch):
    for cores, workers in {1: 0, 2: 1, 4: 3, 9: 8, 64: 8}.items():
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert default_workers() == workers


def test_mixtures_read_each_source_by_its_weight(tmp_path):
    urls = write_shards(tmp_path, 24, 3)
    reader = batches(urls, weights=(2, 1, 1))
    names = keys(reader.loader(0, 8, 0))
    sources = Counter(int(name) % 3 for name in names)  # tar i holds every third sample from i on
    assert sources == {0: 16, 1: 8, 2: 8}
    assert set(Counter(n for n in names if int(n) % 3 == 0).values()) == {2}


@pytest.mark.parametrize("shards", [1, 3, 7])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (3, 1)])
def test_evaluation_reads_every_sample_once(tmp_path, shards, ranks, workers):
    urls = write_shards(tmp_path, 23, shards)
    seen: list[str] = []
    for rank in range(ranks):
        loader = PassLoader(once(urls, rank=rank, ranks=ranks), workers)
        loaded = list(loader)
        assert len(loaded) == len(loader)
        seen += keys(loaded)
    assert sorted(seen) == [f"{n:06d}" for n in range(23)]


def test_a_module_without_setup_sets_itself_up(tmp_path):
    shards = [str(path) for path in write_shards(tmp_path, 8, 2)]
    data = GranularityData(shards, batch_size=4, num_workers=0, image_size=16, context_length=77)
    assert sorted(keys(data.train_dataloader())) == [f"{n:06d}" for n in range(8)]
    with pytest.raises(ShardError, match="do not fill one batch of 9"):
        GranularityData(shards, batch_size=9, num_workers=0, image_size=16).train_dataloader()


def test_identities_are_of_shard_and_number(tmp_path):
    """Stable over passes, ranks and order; of as many values as there are samples, whatever their keys."""
    urls = [write_tar(tmp_path / f"{n}.tar", [make_sample(i, key="same" * (i + 1)) for i in range(6)]) for n in "ab"]
    identities = {
        int(i): key
        for r in range(2)
        for b in once(urls, rank=r, ranks=2).loader(0)
        for i, key in zip(b.ids, b.keys, strict=True)
    }
    assert len(identities) == 12
    for batch in batches(urls).loader(0, 9, 0):
        assert all(identities[int(i)] == key for i, key in zip(batch.ids, batch.keys, strict=True))


def bad_members(number: int, **changes) -> dict:
    return {**make_sample(number).members(), **changes}


BAD = {
    "image": bad_members(50, jpg=b"no jpeg"),
    "json": bad_members(51, json=b"{not json"),
    "caption": bad_members(52, json=json.dumps({"sentences": []}).encode()),
    "json missing": {k: v for k, v in make_sample(53).members().items() if k != "json"},
    "image missing": {k: v for k, v in make_sample(54).members().items() if k != "jpg"},
}


@pytest.mark.parametrize("workers", [0, 3])
def test_bad_samples_are_replaced_and_counted(tmp_path, workers, caplog):
    """No position moves: the good samples come when they would, on all ranks."""
    good = [make_sample(n) for n in range(7)]
    path = write_tar(tmp_path / "a.tar", [*good[:2], *BAD.values(), *good[2:]])
    skip = SkipPolicy(max_rate=0.9)
    runs = {}
    for ranks in (1, 2):
        sides = [list(batches([path], 4 // ranks, r, ranks, skip).loader(0, 6, workers)) for r in range(ranks)]
        steps = [b for step in zip(*sides, strict=True) for b in step]
        assert [len(b.keys) for b in steps] == [4 // ranks] * 6 * ranks
        runs[ranks] = keys(steps), pixels(steps), sum((Counter(b.counts) for b in steps), Counter())
    assert runs[1][0] == runs[2][0]
    assert torch.equal(runs[1][1], runs[2][1])
    assert runs[1][2] == runs[2][2]
    assert set(runs[1][2]) == {f"skipped/{reason}" for reason in BAD}
    assert all(count >= 2 for count in runs[1][2].values())
    assert set(runs[1][0]) == {f"{n:06d}" for n in range(7)}
    assert set(Counter(runs[1][0][:12]).values()) <= {1, 2, 3}
    list(EpochLoader(batches([path], 4, skip=skip), 6, workers, lambda: (0, 0)))
    assert str(path) in caplog.text
    assert "000050" in caplog.text


def test_evaluation_leaves_bad_samples_out(tmp_path):
    path = write_tar(tmp_path / "a.tar", [make_sample(0), *BAD.values(), *(make_sample(n) for n in range(1, 8))])
    loaded = list(PassLoader(once([path], skip=SkipPolicy(max_rate=0.5)), 0))
    assert keys(loaded) == [f"{n:06d}" for n in range(8)]
    assert sum((Counter(b.counts) for b in loaded), Counter()) == {f"skipped/{reason}": 1 for reason in BAD}


def test_too_many_bad_samples_stop_the_run(tmp_path):
    path = write_tar(tmp_path / "a.tar", [*(make_sample(n) for n in range(8)), BAD["caption"]])
    message = r"1 of \d+ samples .*caption: 1.*max_rate 0\.01.*a\.tar, sample '000052'.*'caption'"
    with pytest.raises(DataError, match=message):
        list(EpochLoader(batches([path]), 3, 0, lambda: (0, 0)))
    with pytest.raises(DataError, match=message):
        list(PassLoader(once([path]), 0))
    path = write_tar(tmp_path / "b.tar", BAD.values())
    with pytest.raises(DataError, match="in a row"):
        list(batches([path], skip=SkipPolicy(1.0)).loader(0, 1, 0))


def test_a_shard_that_changes_while_it_is_read(tmp_path):
    paths = write_shards(tmp_path, 12, 2)
    reader = TarReader(IndexedShards.of(find_shards([str(p) for p in paths])))
    reader.read(0)
    os.truncate(paths[0], 512 * 4)
    with pytest.raises(SampleError, match="ends within the sample"):
        reader.read(5)
    paths[1].unlink()
    with pytest.raises(SampleError, match="cannot be opened"):
        reader.read(6)
    assert reader.name(6) == (str(paths[1]), "000001")
    with pytest.raises(DataError, match=r"train-00\d\.tar, sample"):
        list(EpochLoader(batches_of(reader.source), 6, 0, lambda: (0, 0)))


def batches_of(source) -> IndexedBatches:
    return IndexedBatches([source], [1.0], ReaderSettings(PREPARE, 4, skip=SkipPolicy(max_rate=0.01)), 2)


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.shards.reader._OPEN", 2)
    paths = write_shards(tmp_path, 14, 7)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    reader = TarReader(IndexedShards.of(find_shards([str(p) for p in paths])))
    assert [reader.read(i)["__key__"] for i in range(14)] == [f"{n:06d}" for r in range(7) for n in (r, r + 7)]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2
