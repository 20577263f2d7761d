"""Shards to batches: found and checked beforehand, split over ranks and workers, deterministic, with skips counted."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from datamodules.collate import Preparer
from datamodules.loader import EpochLoader, PassLoader
from datamodules.sampling import GrainSampling
from datamodules.shards import ShardError, count_samples, find_shards
from datamodules.stream import BatchStream, DataError, SkipPolicy
from datamodules.tokenizer import Tokenizer
from datamodules.transforms import RandomCrop
from tests.tiny import make_sample, write_shards, write_tar


def stream(urls, batches=None, rank=0, ranks=1, batch_size=4, skip=None, seed=0) -> BatchStream:
    prepare = Preparer(16, RandomCrop(), GrainSampling(1, 1), Tokenizer(77), random_texts=True)
    return BatchStream(
        [str(u) for u in urls],
        prepare,
        batch_size,
        batches=batches,
        shuffle=8,
        seed=seed,
        rank=rank,
        ranks=ranks,
        skip=skip or SkipPolicy(),
    )


def keys(batches) -> list[str]:
    return [key for batch in batches for key in batch.keys]


@pytest.mark.parametrize("shards", [1, 3, 7])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (3, 1)])
def test_evaluation_reads_every_sample_once(tmp_path, shards, ranks, workers):
    urls = write_shards(tmp_path, 23, shards)
    counts = [count_samples(u) for u in urls]
    seen: list[str] = []
    for rank in range(ranks):
        loader = PassLoader(stream(urls, rank=rank, ranks=ranks), counts, workers)
        batches = list(loader)
        assert len(batches) == len(loader)
        seen += keys(batches)
    assert sorted(seen) == [f"{n:06d}" for n in range(23)]


@pytest.mark.parametrize("shards", [1, 6])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_training_epochs(tmp_path, shards, workers):
    urls = write_shards(tmp_path, 24, shards)
    per_rank = []
    for rank in range(2):
        done = 0
        loader = EpochLoader(stream(urls, 3, rank, 2), 3, workers, lambda: done)  # noqa: B023
        first = list(loader)
        done = 3
        second = list(loader)
        assert [len(b.keys) for b in first + second] == [4] * 6
        assert keys(first) != keys(second)
        assert keys(list(EpochLoader(stream(urls, 3, rank, 2), 3, workers, lambda: 3))) == keys(second)
        per_rank.append(Counter(keys(first)))
    if workers < 2:  # with two workers one makes more batches than its share of samples fills
        assert not per_rank[0] & per_rank[1]
        assert max((per_rank[0] + per_rank[1]).values()) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_stopped(tmp_path, workers):
    urls = write_shards(tmp_path, 24, 3)
    whole = list(EpochLoader(stream(urls, 6), 6, workers, lambda: 6))
    for stopped in (1, 2, 5):
        rest = list(EpochLoader(stream(urls, 6), 6, workers, lambda at=6 + stopped: at))
        assert keys(rest) == keys(whole[stopped:])
        assert all((a.images == b.images).all() for a, b in zip(rest, whole[stopped:], strict=True))
        assert all(a.texts.tokens.equal(b.texts.tokens) for a, b in zip(rest, whole[stopped:], strict=True))


def test_pictures_and_texts_do_not_depend_on_workers(tmp_path):
    urls = write_shards(tmp_path, 12, 1)

    def by_key(workers: int) -> dict:
        loader = EpochLoader(stream(urls, 12, batch_size=1), 12, workers, lambda: 0)
        return {b.keys[0]: b for b in loader}

    alone, shared = by_key(0), by_key(3)
    assert len(alone) == 12
    for key in alone.keys() & shared.keys():
        assert (alone[key].images == shared[key].images).all()
        assert alone[key].texts.tokens.equal(shared[key].texts.tokens)


def bad_members(number: int, **changes) -> dict:
    return {**make_sample(number).members(), **changes}


BAD = {
    "image": bad_members(50, jpg=b"no jpeg"),
    "json": bad_members(51, json=b"{not json"),
    "caption": bad_members(52, json=json.dumps({"sentences": []}).encode()),
    "json missing": {k: v for k, v in make_sample(53).members().items() if k != "json"},
}


def test_bad_samples_are_left_out_and_counted(tmp_path, caplog):
    path = write_tar(tmp_path / "a.tar", [make_sample(0), *BAD.values(), *(make_sample(n) for n in range(1, 8))])
    batches = list(stream([path], skip=SkipPolicy(max_rate=0.5)))
    assert keys(batches) == [f"{n:06d}" for n in range(8)]
    counts = sum((Counter(b.counts) for b in batches), Counter())
    assert counts == {f"skipped/{reason}": 1 for reason in BAD}
    assert str(path) in caplog.text
    assert "000050" in caplog.text


def test_a_skip_at_the_very_end_is_counted_too(tmp_path):
    path = write_tar(tmp_path / "a.tar", [make_sample(0), BAD["json"]])
    (batch,) = stream([path], skip=SkipPolicy(max_rate=0.5))
    assert batch.counts == {"skipped/json": 1}


@pytest.mark.parametrize("batches", [None, 3])
def test_too_many_bad_samples_stop_the_run(tmp_path, batches):
    path = write_tar(tmp_path / "a.tar", [*(make_sample(n) for n in range(8)), BAD["caption"]])
    with pytest.raises(
        DataError, match=r"1 of 9 samples .*caption: 1.*max_rate 0\.01.*a\.tar, sample '000052'.*'caption'"
    ):
        list(stream([path], batches))


def test_a_long_caption_is_cut_and_counted(tmp_path):
    path = write_tar(tmp_path / "a.tar", [make_sample(0, caption="word " * 5000, sentences=(), phrases=(), regions=())])
    (batch,) = stream([path])
    assert batch.counts["truncated/caption"] == 1
    assert max(batch.texts.offsets.diff()) == 77


def test_missing_shards(tmp_path):
    with pytest.raises(ShardError, match=r"nothing\.tar does not exist"):
        find_shards(tmp_path / "nothing.tar")
    with pytest.raises(ShardError, match=r"no file matches .*\*\.tar"):
        find_shards(str(tmp_path / "*.tar"))
    with pytest.raises(ShardError, match=r"holds no \*\.tar"):
        find_shards(tmp_path)
    with pytest.raises(ShardError, match="no shards given"):
        find_shards([])
    write_shards(tmp_path, 4)
    with pytest.raises(ShardError, match=r"train-\d+2\.tar does not exist"):
        find_shards(str(tmp_path / "train-{000..002}.tar"))


def test_a_tar_cut_in_the_middle(tmp_path):
    path = write_shards(tmp_path, 6, 1)[0]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ShardError, match=r"train-000\.tar is (cut|not a whole tar)"):
        find_shards(path)
    path.write_bytes(b"this is no tar" * 100)
    with pytest.raises(ShardError, match="not a whole tar"):
        find_shards(path)


def test_a_tar_that_breaks_while_it_is_read(tmp_path):
    """Files can also change after the check: what was read is used, the rest is one counted skip."""
    path = write_shards(tmp_path, 6, 1)[0]
    path.write_bytes(path.read_bytes()[: 512 * 9])
    with pytest.raises(DataError, match="shard: 1"):
        list(stream([path]))


def test_the_manifest_is_believed_only_where_sizes_agree(tmp_path):
    path = write_shards(tmp_path, 6, 1)[0]
    manifest = {"shards": {path.name: {"samples": 77, "bytes": path.stat().st_size}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert find_shards(path)[0].samples == 77
    manifest["shards"][path.name]["bytes"] += 1
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"manifest\.json says"):
        find_shards(path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ShardError, match="not a shard manifest"):
        find_shards(path)


def test_patterns(tmp_path):
    write_shards(tmp_path / "a", 6, 3)
    write_shards(tmp_path / "b", 2, 1)
    names = [
        s.url.removeprefix(str(tmp_path)) for s in find_shards([tmp_path / "b", str(tmp_path / "a/*-00{0,2}.tar")])
    ]
    assert names == ["/b/train-000.tar", "/a/train-000.tar", "/a/train-002.tar"]
    assert [s.samples for s in find_shards(str(tmp_path / "a"))] == [2, 2, 2]
    assert find_shards("s3://bucket/{00..01}.tar")[1].url == "s3://bucket/01.tar"
    assert find_shards("pipe:cat x.tar")[0].samples is None
