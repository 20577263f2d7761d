"""Preparing at scale: the same shards for any number of processes and parts, nothing lost or doubled when killed."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import Rejects
from datamodules.prepare.shard_jobs import in_units, write_units
from datamodules.prepare.statistics import Statistics
from datamodules.shards.tar_index import stored_index
from tests.helpers.killing import kill_once_going
from tests.helpers.tiny import make_sample


def samples(numbers: list[int], rejects: Rejects):
    """A sample a number; those that end in 7 are left out. Slow where the environment says so."""
    for number in numbers:
        time.sleep(float(os.environ.get("SLOW", "0")))
        if number % 10 == 7:
            rejects.add("seven", number)
        else:
            yield make_sample(number)


def write(out: Path, count: int = 40, **options):
    job = PrepareJob(out, **{"samples_per_shard": 6, **options})
    return write_units(in_units(range(count), job.samples_per_shard), samples, job, source="numbers", settings={})


def contents(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.suffix != ".idx"}


def keys(out: Path) -> list[str]:
    indices = [stored_index(tar) for tar in sorted(out.glob("*.tar"))]
    return [index.key(n) for index in indices if index is not None for n in range(len(index))]


WANTED = [f"{n:06d}" for n in range(40) if n % 10 != 7]


@pytest.mark.slow
def test_processes_and_parts_give_the_same_bytes(tmp_path):
    manifest = write(tmp_path / "one")
    assert manifest is not None
    assert manifest["samples"] == len(WANTED) == 36
    assert manifest["rejects"] == {"seven": 4}
    assert keys(tmp_path / "one") == WANTED
    assert write(tmp_path / "two", processes=2) == manifest
    assert [write(tmp_path / "parts", part=f"{i}/3") for i in (2, 1)] == [None, None]
    assert not (tmp_path / "parts" / "manifest.json").exists()
    assert write(tmp_path / "parts", part="3/3") == manifest
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "parts")


def test_finished_shards_are_never_redone(tmp_path):
    write(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("shard-*")}
    gone = tmp_path / "shard-000002.tar"
    gone.unlink()
    write(tmp_path)
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed == {"shard-000002.tar", "shard-000002.tar.idx", "shard-000002.json"}
    with pytest.raises(FileExistsError, match="other settings"):
        write(tmp_path, samples_per_shard=5)
    assert write(tmp_path, samples_per_shard=5, overwrite=True)
    assert keys(tmp_path) == WANTED


def write_slowly(out: Path) -> None:
    os.environ["SLOW"] = "0.02"
    write(out, 120)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_at_random_moments(tmp_path):
    """Ten times kill -9, then a run to the end: the shards of a run that was left alone."""
    killed, rng, whole = tmp_path / "killed", random.Random(0), tmp_path / "whole"
    write(whole, 120)

    def started() -> int:
        claim = killed / "settings.json"
        return claim.stat().st_mtime_ns if claim.exists() else 0

    for _ in range(10):
        before = started()
        assert kill_once_going(write_slowly, (killed,), lambda before=before: started() != before, 0.2, rng)
        for tar in killed.glob("*.tar"):
            assert tar.read_bytes() == (whole / tar.name).read_bytes()
    assert len(list(killed.glob("*.tar"))) < 20
    write(killed, 120)
    assert contents(killed) == contents(whole)


def test_a_unit_that_fails_stops_the_run_and_keeps_the_others(tmp_path):
    def failing(numbers, rejects):
        if 13 in numbers:
            raise OSError("the disk went away")
        yield from samples(numbers, rejects)

    with pytest.raises(OSError, match="went away"):
        write_units(in_units(range(20), 6), failing, PrepareJob(tmp_path), source="numbers", settings={})
    assert sorted(p.name for p in tmp_path.glob("*.tar")) == ["shard-000000.tar", "shard-000001.tar"]


def test_nothing_to_write(tmp_path):
    def none(numbers, rejects):
        rejects.add("all", "x")
        yield from ()

    with pytest.raises(ValueError, match=r"no sample of 'n' was left .*1 × all"):
        write_units([[1]], none, PrepareJob(tmp_path), source="n", settings={})


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"part": "0/2"}, {"part": "3/2"}, {"part": "x"}, {"max_side": 31}])
def test_wrong_jobs(wrong, tmp_path):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PrepareJob(tmp_path, **wrong)


def test_statistics_add_up(tmp_path):
    whole, halves = Statistics(), [Statistics(), Statistics()]
    for number in range(10):
        whole.add(make_sample(number))
        halves[number % 2].add(make_sample(number))
    merged = Statistics()
    for half in halves:
        merged.merge(json.loads(json.dumps(half.counts())))
    assert merged.counts() == whole.counts()
    assert whole.mean("phrases") == 2
    assert whole.quantile("boxes", 0.99) == 1
    assert "phrases of an image: mean 2.00, median 2" in whole.chart()


def test_charts_only_where_shards_were_made_and_nobody_asked_for_quiet(tmp_path, caplog):
    logging.getLogger("grainclip").propagate = True
    caplog.set_level(logging.INFO, "grainclip")

    def told(**options) -> str:
        caplog.clear()
        assert write(tmp_path, 10, **options) is not None
        return caplog.text

    first = told()
    assert "2 shards made now, 2 of 2 there" in first
    assert "phrases of an image: mean" in first
    again = told()
    assert "0 shards made now, 2 of 2 there" in again
    assert "mean" not in again
    assert "left out: 1 × seven" in again
    quiet = told(overwrite=True, quiet=True)
    assert "2 shards made now" in quiet
    assert "mean" not in quiet


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_left_of_a_run_that_had_nothing_to_write(tmp_path, caplog, there):
    logging.getLogger("grainclip").propagate = True
    caplog.set_level(logging.INFO, "grainclip")
    out = tmp_path / "out"
    if there:
        out.mkdir()
    job = PrepareJob(out, samples_per_shard=1)
    with pytest.raises(ValueError, match="2 × seven"):
        write_units(in_units([7, 17], 1), samples, job, source="numbers", settings={})
    assert "made now" not in caplog.text
    assert out.exists() == there
    assert not there or not list(out.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
@pytest.mark.parametrize(("limit", "named"), [(4096, "shard-000000.tar"), (40, "settings.json")])
def test_a_full_disk_names_the_file(tmp_path, limit, named):
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=named) as caught:
            write(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert str(caught.value).endswith("could not be written: File too large")
    assert not list((tmp_path / "out").glob("*.partial"))
