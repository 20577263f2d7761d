"""Storage that fails: nothing is lost silently, nothing comes twice, and where it stays away the end is clear."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter

import pytest

from datamodules.batching.collate import SamplePreprocessor
from datamodules.batching.image_transforms import Squash
from datamodules.batching.text_sampling import GrainSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.reading.bad_samples import DataError, SkipPolicy
from datamodules.reading.loader import EpochLoader, PassLoader
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.reading.remote_shards import StreamBatches, StreamPass
from datamodules.reading.shuffle_order import hash_key, permutation
from datamodules.shards import download
from datamodules.shards.download import FetchPolicy
from tests.helpers.flaky_server import FAULTS, FlakyServer
from tests.helpers.tiny import write_shards

PREPARE = SamplePreprocessor(16, Squash(), GrainSampling(0, 0), Tokenizer(77), random_texts=True)
POLICY = FetchPolicy(stall=1.0, patience=60.0, tries=20)
SHORT = FetchPolicy(stall=20.0, patience=60.0, tries=2)  # answers come late on a busy machine, but they come
IMPATIENT = FetchPolicy(stall=0.5, patience=1.0, tries=2)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def stream(urls, batch=4, skip=None, policy=POLICY, shuffle_samples=4, rank=0, ranks=1) -> StreamBatches:
    settings = ReaderSettings(PREPARE, batch, rank=rank, ranks=ranks, skip=skip or SkipPolicy(), fetch=policy)
    return StreamBatches([urls], [1.0], settings, shuffle_samples)


def once(urls, policy=POLICY, skip=None) -> StreamPass:
    return StreamPass(urls, ReaderSettings(PREPARE, 4, skip=skip or SkipPolicy(), fetch=policy))


def epoch(reader, batches: int, workers: int = 0, start: int = 0):
    """The batches from the ``start``-th on, as training reads them."""
    return list(EpochLoader(reader, batches, workers, lambda: (start * reader.global_batch, start)))


def keys(batches) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def counted(batches) -> Counter[str]:
    return sum((Counter(batch.counts) for batch in batches), Counter())


def early(shards: int) -> int:
    """A shard that comes second in the first pass."""
    return int(permutation(shards, hash_key("0/0", 0, "shards"))[1])


def served(server: FlakyServer, samples: int, shards: int) -> list[str]:
    return [server.url(path.name) for path in write_shards(server.folder, samples, shards)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_faults_at_random_lose_and_double_nothing(tmp_path, workers):
    """Every second request fails, in one of five ways: two passes of training and one of validation are whole."""
    with FlakyServer(tmp_path, share=0.5, seed=workers, hang=1.5) as server:
        urls = served(server, 24, 6)
        batches = epoch(stream(urls), 12, workers)
        for part in (batches[:6], batches[6:]):
            assert sorted(keys(part)) == [f"{n:06d}" for n in range(24)]
        assert sorted(keys(PassLoader(once(urls), workers))) == [f"{n:06d}" for n in range(24)]
        assert counted(batches) == {}
        assert {fault for fault in FAULTS if server.answers[fault]} >= {"busy", "cut", "drop"}
        assert server.answers["whole"] >= 18


def test_a_missing_shard_counts_with_its_samples_and_is_asked_for_again(tmp_path):
    """One of six is missing in the first pass and back in the second."""
    with FlakyServer(tmp_path) as server:
        urls, lost = served(server, 48, 6), early(6)
        server.missing = {f"train-00{lost}.tar"}
        reader = stream(urls, policy=SHORT, skip=SkipPolicy(0.5))
        first = epoch(reader, 10)
        assert counted(first) == {"skipped/shard": 8}
        assert {int(key) % 6 for key in keys(first)} == {*range(6)} - {lost}
        assert reader.samples is None  # still not counted, so it is not known to be empty
        server.missing = set()
        rest = epoch(reader, 22, start=10)
        assert counted(rest) == {}
        assert sorted(keys(rest)) == sorted(f"{n:06d}" for n in range(48))


def test_missing_shards_count_against_the_rate(tmp_path):
    """Four of ten shards missing: not one bad sample each, but all that they hold."""
    with FlakyServer(tmp_path) as server:
        urls = served(server, 100, 10)
        server.missing = {f"train-00{n}.tar" for n in (1, 3, 5, 7)}
        with pytest.raises(
            DataError, match=r"[1-4]0 of \d+ samples cannot be used \(shard: [1-4]0\), more than .* 0\.2"
        ):
            epoch(stream(urls, policy=SHORT, skip=SkipPolicy(0.2, 20)), 25)
        with pytest.raises(DataError, match=r"40 of 100 samples cannot be used .* returned error: 404"):
            list(PassLoader(once(urls, SHORT, SkipPolicy(0.2)), 0))


def test_a_lost_shard_of_known_size_counts_with_that(tmp_path):
    with FlakyServer(tmp_path) as server:
        small, large = tmp_path / "small", tmp_path / "large"
        names = [f"{p.parent.name}/{p.name}" for p in (*write_shards(small, 4, 2), *write_shards(large, 20, 1))]
        reader = once([server.url(name) for name in names], SHORT, SkipPolicy(1.0))
        assert counted(PassLoader(reader, 0)) == {}
        server.missing = {names[-1]}
        assert counted(PassLoader(reader, 0)) == {"skipped/shard": 20}
        fresh = once([server.url(name) for name in names], SHORT, SkipPolicy(1.0))
        assert counted(PassLoader(fresh, 0)) == {"skipped/shard": 2}  # as the others


def test_a_cut_shard_counts_with_what_lies_behind_the_cut(tmp_path):
    first, second = write_shards(tmp_path, 12, 2)
    reader = once([f"file:{first}", f"file:{second}"], SHORT, SkipPolicy(1.0))
    assert counted(PassLoader(reader, 0)) == {}
    second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
    batches = list(PassLoader(reader, 0))
    fetched = len(keys(batches)) - 6
    assert 0 < fetched < 6
    assert counted(batches) == {"skipped/shard": 6 - fetched}


def test_a_lost_shard_counts_as_one_sample_where_no_size_is_known():
    assert counted(PassLoader(once(["file:nowhere/a.tar"], SHORT, SkipPolicy(1.0)), 0)) == {"skipped/shard": 1}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_stop_and_go_on_with_a_shard_that_was_lost(tmp_path, workers):
    """Stopped after any batch, the rest is that of the run that was not stopped; losses are counted once."""
    with FlakyServer(tmp_path) as server:
        urls = served(server, 30, 6)
        cut = tmp_path / "train-004.tar"
        cut.write_bytes(cut.read_bytes()[: 512 * 14])
        server.missing = {"train-001.tar"}
        skip = SkipPolicy(0.9)
        whole = epoch(stream(urls, 2, skip, SHORT), 20, workers)
        assert counted(whole)["skipped/shard"] >= 14
        for stop in (1, 9, 11, 16):
            before = stream(urls, 2, skip, SHORT)
            first = epoch(before, stop, workers)
            again = stream(urls, 2, skip, SHORT)
            again.restore(before.state())
            rest = epoch(again, 20, workers, start=stop)
            assert keys(first + rest) == keys(whole)
            assert counted(first) + counted(rest) == counted(whole)


def test_the_rest_of_a_pass_with_gaps_is_exact(tmp_path):
    """The shard that failed in the first pass is back when the run goes on: the second is whole, nothing is doubled."""
    with FlakyServer(tmp_path) as server:
        urls, lost = served(server, 30, 6), early(6)
        for stop in (3, 5):
            server.missing = {f"train-00{lost}.tar"}
            before = stream(urls, 5, SkipPolicy(0.9), SHORT, shuffle_samples=1)
            batches = epoch(before, stop)
            server.missing = set()
            again = stream(urls, 5, SkipPolicy(0.9), SHORT, shuffle_samples=1)
            again.restore(before.state())
            batches += epoch(again, 11, start=stop)
            assert sorted(keys(batches[:5])) == [f"{n:06d}" for n in range(30) if n % 6 != lost]
            assert sorted(keys(batches[5:])) == [f"{n:06d}" for n in range(30)]
            assert [(gap.epoch, gap.shard, gap.samples) for gap in again.gaps] == [(0, lost, 0)]


def test_ranks_that_share_shards_do_not_disturb_each_other(tmp_path):
    """Two readers take every other sample of three shards; one of them misses a shard, the other has it."""
    with FlakyServer(tmp_path) as server:
        urls = served(server, 21, 3)
        server.missing = {"train-001.tar"}
        mine = keys(epoch(stream(urls, 1, SkipPolicy(0.9), SHORT, rank=0, ranks=2), 7))
        server.missing = set()
        other = keys(epoch(stream(urls, 1, SkipPolicy(0.9), SHORT, rank=1, ranks=2), 10))
        assert not {*mine} & {*other}
        missed = {f"{n:06d}" for n in range(21)} - {*mine} - {*other}
        assert all(int(key) % 3 == 1 for key in missed)


def test_storage_that_goes_away_ends_the_run(tmp_path):
    """In the midst of training, in at most twice the patience, by one line."""
    server = FlakyServer(tmp_path)
    with server:
        reader = stream(served(server, 48, 12), policy=IMPATIENT, skip=SkipPolicy(1.0))
        batches = iter(EpochLoader(reader, 100, 0, lambda: (0, 0)))
        next(batches)
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"^storage stays away: \d+ shards in a row do not come\. The last: train-0"
    ) as e:
        for _ in batches:
            pass
    assert time.monotonic() - start < 30
    assert len(str(e.value)) <= 200
    assert "curl" in str(e.value)
    assert "Popen" not in str(e.value)


def test_a_command_that_hangs_is_ended(tmp_path):
    """Its children too; the other shard is read."""
    good = write_shards(tmp_path, 4, 1)[0]
    pids = tmp_path / "pids"
    hanging = f"pipe:sleep 1000 & echo $! >> {pids}; wait"
    batches = list(PassLoader(once([f"pipe:cat {good}", hanging], IMPATIENT, SkipPolicy(0.6)), 0))
    assert counted(batches) == {"skipped/shard": 4}
    assert "it hangs: 0 bytes in 0.5 s" in next(skip.message for batch in batches for skip in batch.skipped)
    started = [int(line) for line in pids.read_text().split()]
    assert started
    time.sleep(0.1)
    assert not [pid for pid in started if alive(pid)]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_hanging_transfer_ends_with_its_reader(tmp_path):
    """A run that ends does not wait for storage: the thread that fetches ahead is told."""
    good = write_shards(tmp_path, 4, 1)[0]
    steps = [(0, f"pipe:cat {good}"), (1, "pipe:sleep 1000")]
    threads, start = threading.active_count(), time.monotonic()
    shards = download.fetch_ahead(steps, FetchPolicy())
    shard = next(shards)[1]
    assert shard is not None
    shard.file.close()
    assert threading.active_count() > threads
    shards.close()
    while threading.active_count() > threads:
        assert time.monotonic() - start < 20
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/a.tar", r"curl: \(7\) .*exit status 7"),
        ("pipe:echo first >&2; echo no such bucket >&2; exit 3", r"no such bucket \(exit status 3\)"),
        ("pipe:exit 4", r"it could not be fetched: exit status 4 \(2 tries"),
        ("file:nowhere/a.tar", r"it could not be fetched: No such file or directory \(2 tries"),
        ("nosuchscheme.tar", r"No such file or directory"),
    ],
)
def test_problems_are_one_line(url, message):
    shard = download.fetch(url, IMPATIENT)
    shard.file.close()
    assert len(shard.index) == 0
    assert len(shard.problem.splitlines()) == 1
    assert len(shard.problem) < 200
    assert re.search(message, shard.problem), shard.problem


@pytest.mark.parametrize("answers", [["busy"] * 3, ["drop", "cut", "busy"]])
def test_storage_that_is_busy_or_breaks_off_does_not_refuse(tmp_path, answers):
    """One refusal is the last word here; 503 and lost connections are none."""
    policy = FetchPolicy(stall=20.0, patience=60.0, tries=1)
    with FlakyServer(tmp_path) as server:
        url = served(server, 3, 1)[0]
        server.script = list(answers)
        shard = download.fetch(url, policy)
        shard.file.close()
        assert (shard.problem, len(shard.index)) == ("", 3)
        server.script = ["missing"]
        refused = download.fetch(url, policy)
        refused.file.close()
        assert "404 (exit status 22) (1 tries in" in refused.problem
        assert server.script == []


def test_a_command_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    shard = download.fetch("gs://bucket/a.tar", SHORT)
    shard.file.close()
    assert "there is no command 'gsutil' on this machine" in shard.problem


def test_other_shards_than_the_checkpoint_s_are_counted_anew(tmp_path, caplog):
    urls = [f"file:{path}" for path in write_shards(tmp_path, 12, 3)]
    reader = stream(urls)
    epoch(reader, 3)
    moved = stream([url.replace(str(tmp_path), "elsewhere") for url in urls])
    moved.restore(reader.state())
    assert moved.samples == 12
    other = stream([urls[0], urls[2], urls[1]])
    other.restore(reader.state())
    assert other.samples is None
    assert "not those of the checkpoint" in caplog.text


def test_cut_files_leave_nothing_open(tmp_path):
    path = write_shards(tmp_path, 6, 1)[0]
    path.write_bytes(path.read_bytes()[: 512 * 9])
    before = len(os.listdir("/proc/self/fd"))
    shard = download.fetch(f"file:{path}", SHORT)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert "the tar cannot be read on" in shard.problem
    assert "(2 tries in" in shard.problem
    shard.file.close()
