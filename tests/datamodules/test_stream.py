"""Remote shards: fetched whole, split over ranks and workers, the same after a stop, with failures counted."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch

from datamodules.batching.collate import SamplePreprocessor
from datamodules.batching.image_transforms import RandomCrop
from datamodules.batching.text_sampling import GrainSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.reading.bad_samples import DataError, SkipNotes, SkipPolicy
from datamodules.reading.loader import EpochLoader, PassLoader
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.reading.remote_order import UNKNOWN, ShardSequence, Share
from datamodules.reading.remote_shards import StreamBatches, StreamPass
from datamodules.shards import download
from datamodules.shards.discovery import ShardError, find_shards
from datamodules.shards.download import FetchPolicy
from tests.helpers.tiny import make_sample, write_shards, write_tar

PREPARE = SamplePreprocessor(16, RandomCrop(), GrainSampling(1, 1), Tokenizer(77), random_texts=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0.0)


def remote(paths) -> list[str]:
    return [f"pipe:cat {shlex.quote(str(path))}" for path in paths]


def stream(sources, rank=0, ranks=1, batch_size=4, skip=None, weights=(1.0,), shuffle_samples=8) -> StreamBatches:
    settings = ReaderSettings(PREPARE, batch_size, rank=rank, ranks=ranks, skip=skip or SkipPolicy())
    return StreamBatches(sources, weights, settings, shuffle_samples)


def keys(batches) -> list[str]:
    return [key for batch in batches for key in batch.keys]


@pytest.mark.parametrize("shards", [1, 7])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 2), (3, 0)])
def test_evaluation_reads_every_sample_once(tmp_path, shards, ranks, workers):
    urls = remote(write_shards(tmp_path, 23, shards))
    seen: list[str] = []
    for rank in range(ranks):
        reader = StreamPass(urls, ReaderSettings(PREPARE, 4, rank=rank, ranks=ranks))
        seen += keys(PassLoader(reader, workers))
    assert sorted(seen) == [f"{n:06d}" for n in range(23)]
    with pytest.raises(TypeError, match="not counted"):
        len(PassLoader(StreamPass(urls, ReaderSettings(PREPARE, 4)), 0))


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "ranks", "workers"), [(1, 1, 0), (6, 1, 3), (6, 2, 0), (2, 2, 2)])
def test_stop_anywhere(tmp_path, shards, ranks, workers):
    """Five stops, from a checkpoint's counts and without: the batches of the uninterrupted run; whole passes."""
    urls = remote(write_shards(tmp_path, 24, shards))
    batch, total = 2, 36 // ranks
    for rank in range(ranks):
        reader = stream([urls], rank, ranks, batch)
        whole = list(reader.loader(0, total, workers))
        state = reader.state()
        assert UNKNOWN not in state["counts"] or ranks > 1
        for number, stop in enumerate((1, 3, total // 3, total // 2, total - 1)):
            again = stream([urls], rank, ranks, batch)
            again.restore(state if number % 2 else None)
            rest = list(again.loader(stop * batch * ranks, total - stop, workers))
            assert keys(rest) == keys(whole[stop:])
            assert all(torch.equal(a.images, b.images) for a, b in zip(rest, whole[stop:], strict=True))
            assert all(a.texts.tokens.equal(b.texts.tokens) for a, b in zip(rest, whole[stop:], strict=True))


@pytest.mark.parametrize(("shards", "ranks", "workers"), [(1, 1, 0), (6, 1, 3), (3, 2, 0)])
def test_passes_are_whole_and_differ(tmp_path, shards, ranks, workers):
    urls = remote(write_shards(tmp_path, 24, shards))
    steps = 12 // ranks
    runs = [keys(stream([urls], r, ranks, 2).loader(0, 3 * steps, workers)) for r in range(ranks)]
    passes = [[key for run in runs for key in run[2 * steps * e : 2 * steps * (e + 1)]] for e in range(3)]
    for pass_keys in passes:
        assert sorted(pass_keys) == [f"{n:06d}" for n in range(24)]
    assert passes[0] != passes[1] != passes[2]


def test_the_order_of_shards_differs_from_pass_to_pass(tmp_path):
    paths = write_shards(tmp_path, 8, 8)
    reader = stream([remote(paths)], batch_size=1, shuffle_samples=1)
    names = keys(reader.loader(0, 32, 0))
    assert len({tuple(names[8 * e : 8 * (e + 1)]) for e in range(4)}) == 4


def test_a_resumed_run_opens_no_shard_that_is_done(tmp_path, monkeypatch):
    paths = write_shards(tmp_path, 12, 6)
    opened: list[str] = []
    copy = download._copy

    def noted(url, *more):
        opened.append(url)
        return copy(url, *more)

    monkeypatch.setattr(download, "_copy", noted)
    reader = stream([remote(paths)], batch_size=2, shuffle_samples=1)
    list(reader.loader(0, 6, 0))
    first, opened[:] = list(opened[:6]), []
    again = stream([remote(paths)], batch_size=2, shuffle_samples=1)
    again.restore(reader.state())
    list(again.loader(2 * 4, 1, 0))
    assert opened[0] == first[4]
    assert not {*opened[:2]} & {*first[:4]}


def test_no_more_shards_are_kept_than_asked(tmp_path):
    urls = remote(write_shards(tmp_path, 10, 10))
    asked: list[int] = []

    def steps():
        for n, url in enumerate(urls):
            asked.append(n)
            yield n, url

    for n, shard in download.fetch_ahead(steps(), FetchPolicy()):
        assert len(asked) - 1 - n <= download.AHEAD
        assert shard is not None
        shard.file.close()


def test_mixtures(tmp_path):
    urls = remote(write_shards(tmp_path, 24, 2))
    names = keys(stream([[urls[0]], [urls[1]]], weights=(3, 1)).loader(0, 8, 2))
    assert Counter(int(name) % 2 for name in names) == {0: 24, 1: 8}


def test_bad_samples_are_replaced_and_counted(tmp_path):
    bad = {**make_sample(50).members(), "json": b"{not json"}
    path = write_tar(tmp_path / "a.tar", [make_sample(0), bad, *(make_sample(n) for n in range(1, 7))])
    batches = list(stream([remote([path])], skip=SkipPolicy(0.5)).loader(0, 4, 0))
    assert [len(b.keys) for b in batches] == [4] * 4
    assert sum((Counter(b.counts) for b in batches), Counter())["skipped/json"] >= 2
    assert set(keys(batches)) == {f"{n:06d}" for n in range(7)}
    with pytest.raises(DataError, match=r"max_rate 0\.01.*sample '000050'"):
        list(EpochLoader(stream([remote([path])], skip=SkipPolicy(0.01, 10)), 4, 0, lambda: (0, 0)))
    once = StreamPass(remote([path]), ReaderSettings(PREPARE, 4, skip=SkipPolicy(0.5)))
    assert keys(once) == [f"{n:06d}" for n in range(7)]


def test_a_substitute_stands_half_a_window_away(tmp_path):
    samples = [make_sample(n) for n in range(7)]
    good = write_tar(tmp_path / "good.tar", samples)
    bad = write_tar(tmp_path / "bad.tar", [*samples[:2], samples[2].members() | {"json": b"{"}, *samples[3:]])
    whole, damaged = (
        keys(stream([remote([path])], batch_size=1, skip=SkipPolicy(1.0)).loader(0, 7, 0)) for path in (good, bad)
    )
    at = whole.index("000002")
    assert damaged == [*whole[:at], whole[(at + 3) % 7], *whole[at + 1 :]]


def test_a_shard_that_fails_is_counted_and_left_out(tmp_path):
    paths = write_shards(tmp_path, 12, 3)
    urls = remote(paths)
    paths[1].unlink()
    batches = list(stream([urls], skip=SkipPolicy(0.5), batch_size=2).loader(0, 8, 0))
    assert sum((Counter(b.counts) for b in batches), Counter()) == {"skipped/shard": 4 * 2}  # as the others hold
    assert {int(name) % 3 for name in keys(batches)} == {0, 2}
    with pytest.raises(
        DataError, match=r"found no sample in 1 shards.*train-001\.tar.*could not be fetched: .*No such"
    ):
        list(stream([urls[1:2]], skip=SkipPolicy(1.0)).loader(0, 1, 0))


def test_a_shard_that_is_cut_is_read_as_far_as_it_goes(tmp_path):
    path = write_shards(tmp_path, 6, 1)[0]
    path.write_bytes(path.read_bytes()[: 512 * 9])
    batches = list(stream([remote([path])], skip=SkipPolicy(1.0), batch_size=1).loader(0, 4, 0))
    assert len(batches) == 4
    assert sum((Counter(b.counts) for b in batches), Counter())["skipped/shard"] >= 1


@pytest.mark.parametrize(
    ("shards", "owns"), [(3, False), (4, True), (5, False), (8, True), (31, False), (32, True), (33, True)]
)
def test_readers_have_shards_of_their_own_where_that_is_fair(shards, owns):
    """Of 4 readers: equally many shards each, or at least eight, so that one more or less hardly matters."""
    assert Share(1, 4).owns_shards(shards) == owns


def test_skipping_counts_like_reading(tmp_path):
    """Any number of samples done, any share: the same rest of the sequence, whole windows being left out."""
    paths = write_shards(tmp_path, 17, 5)
    for index, readers in [(0, 1), (1, 2), (2, 3), (0, 7)]:

        def rest(done: int, index=index, readers=readers) -> list[tuple[int, str]]:
            counts = torch.full((5,), UNKNOWN)
            sequence = ShardSequence([str(p) for p in paths], counts, Share(index, readers), 0, 4)
            samples: list[tuple[int, str]] = []
            for window, first in sequence.windows(done, SkipNotes()):
                samples += [(window.epoch, s.shard.index.key(s.number)) for s in window.slots[first:]]
                if len(samples) > 30:
                    return samples[:31]
            return samples

        whole = rest(0)
        for done in range(1, 20):
            assert rest(done)[: 31 - done] == whole[done:]


def test_two_stars_are_folders_at_any_depth(tmp_path):
    for folder in ("", "a", "a/b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_shards(tmp_path / folder, 4)
    found = {str(Path(shard.url).parent.relative_to(tmp_path)) for shard in find_shards(str(tmp_path / "**" / "*.tar"))}
    assert found == {".", "a", "a/b"}


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
    with pytest.raises(ShardError, match=r"train-000\.tar is not a whole tar.*(cut|header)"):
        find_shards(path)
    path.write_bytes(b"this is no tar" * 100)
    with pytest.raises(ShardError, match="not a whole tar"):
        find_shards(path)
    path.write_bytes(data[: 512 * 8] + b"noise" * 1000)
    with pytest.raises(ShardError, match=r"no tar header|cut"):
        find_shards(path)


def test_the_manifest_is_believed_only_where_sizes_agree(tmp_path):
    path = write_shards(tmp_path, 6, 1)[0]
    manifest = {"shards": {path.name: {"samples": 77, "bytes": path.stat().st_size}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert find_shards(path)[0].samples == 77
    with pytest.raises(ShardError, match=r"holds 6 samples but its manifest\.json says 77"):
        find_shards(path)[0].index()
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


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 9])
def test_a_window_without_a_usable_sample_ends_no_run(tmp_path, stop):
    """Its places are filled from the next window; a run that goes on from there gives the same."""
    paths = write_shards(tmp_path, 12, 4)
    broken = [make_sample(n).members() | {"jpg": b"no image"} for n in range(1, 12, 4)]
    write_tar(paths[1], broken)
    urls, skip = remote(paths), SkipPolicy(1.0)
    whole = list(stream([urls], batch_size=2, shuffle_samples=1, skip=skip).loader(0, 12, 0))
    assert [len(batch.keys) for batch in whole] == [2] * 12
    assert Counter(key for key in keys(whole[:6]) if int(key) % 4 == 1) == {}
    assert set(keys(whole[:6])) == {f"{n:06d}" for n in range(12) if n % 4 != 1}
    again = stream([urls], batch_size=2, shuffle_samples=1, skip=skip)
    rest = list(again.loader(2 * stop, 12 - stop, 0))
    assert keys(rest) == keys(whole[stop:])
    assert all(torch.equal(a.images, b.images) for a, b in zip(rest, whole[stop:], strict=True))


def test_a_shard_without_a_sample_is_told_once(tmp_path):
    paths = [*write_shards(tmp_path, 8, 2), write_tar(tmp_path / "empty.tar", [])]
    batches = list(stream([remote(paths)], skip=SkipPolicy(0.5)).loader(0, 6, 0))
    skips = [skip for batch in batches for skip in batch.skipped]
    assert [(skip.reason, skip.message) for skip in skips] == [("shard", "it holds no sample")]
    assert Counter(keys(batches[:4])) == {f"{n:06d}": 2 for n in range(8)}


def test_only_unusable_samples_end_the_run(tmp_path):
    path = write_tar(tmp_path / "a.tar", [make_sample(n).members() | {"jpg": b"no image"} for n in range(7)])
    with pytest.raises(DataError, match=r"^none of 10[0-9] samples can be used\. The last: a\.tar, sample '00000"):
        list(stream([remote([path])], skip=SkipPolicy(1.0)).loader(0, 1, 0))


def test_settings_of_fetching_are_checked():
    for name, value in {"stall": 0, "patience": -1, "tries": 0}.items():
        with pytest.raises(ValueError, match=rf"data\.fetch\.{name} must be at least"):
            FetchPolicy(**{name: value})
    assert FetchPolicy(stall=0.1, patience=0, tries=1).tries == 1
