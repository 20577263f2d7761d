"""Shards of scenes: plain WebDataset tars, the same bytes each time, written once and whole."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from webdataset.compat import WebDataset

from datamodules import scenes
from datamodules.sample import Sample
from datamodules.scenes import shards
from datamodules.scenes.world import Split

SMALL: dict[str, Any] = {"train": 40, "dev": 5, "held_out": 6, "seed": 1, "size": 64}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> scenes.ScenesShards:
    return scenes.ensure_shards(tmp_path_factory.mktemp("cache"), **SMALL)


def test_shards_hold_the_samples_in_order(written: scenes.ScenesShards) -> None:
    assert len(written.train) == 16
    assert len(written.dev) == len(written.held_out) == 4
    splits: tuple[Split, ...] = ("train", "dev", "held_out")
    for split, paths, count in zip(splits, written, (40, 5, 6), strict=True):
        dataset = WebDataset([str(path) for path in paths], shardshuffle=False)
        read = [Sample.from_members(members) for members in dataset]
        assert read == [scenes.sample(i, split, 1) for i in range(count)]


def test_the_manifest_counts_samples_and_bytes(written: scenes.ScenesShards) -> None:
    manifest = json.loads((written.train[0].parent / "manifest.json").read_text())
    assert manifest["source"] == "scenes"
    assert set(manifest["shards"]) == {path.name for path in chain(*written)}
    assert sum(entry["samples"] for entry in manifest["shards"].values()) == 51
    for path in chain(*written):
        assert manifest["shards"][path.name]["bytes"] == path.stat().st_size


def test_a_second_call_uses_what_is_there(
    written: scenes.ScenesShards, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shards, "_write", lambda *arguments: pytest.fail("wrote again"))
    with caplog.at_level(logging.INFO, "grainclip"):
        assert scenes.ensure_shards(written.train[0].parent.parent, **SMALL) == written
    assert not caplog.records


def test_the_bytes_are_the_same_each_time(
    written: scenes.ScenesShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRAINCLIP_CACHE", str(tmp_path))
    monkeypatch.setattr(shards, "PROCESSES", 1)
    with caplog.at_level(logging.INFO, "grainclip"):
        again = scenes.ensure_shards(**SMALL)
    assert again.train[0].parent.parent == tmp_path
    assert str(again.train[0].parent) in caplog.text
    assert [_digest(p) for p in chain(*again)] == [_digest(p) for p in chain(*written)]
    with tarfile.open(again.train[0]) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar.getmembers()} == {(0, 0, 0, "", "")}


def test_the_folder_name_holds_what_decides_the_content(tmp_path: Path) -> None:
    folders = set()
    defaults: dict[str, Any] = {"train": 1, "dev": 1, "held_out": 1, "seed": 0, "size": 32}
    for change in ({}, {"train": 2}, {"dev": 2}, {"held_out": 2}, {"seed": 9}, {"size": 48}, {"asked": 1}):
        made = scenes.ensure_shards(tmp_path, **(defaults | change))
        folders.add(made.train[0].parent.name)
    assert len(folders) == 7
    assert all(f"-v{shards.VERSION}-" in name for name in folders)


def test_processes_that_write_at_once_all_succeed(written: scenes.ScenesShards, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    writers = [context.Process(target=_ensure, args=(tmp_path, results)) for _ in range(3)]
    for writer in writers:
        writer.start()
    made = [results.get(timeout=120) for _ in writers]
    for writer in writers:
        writer.join()
    assert {writer.exitcode for writer in writers} == {0}
    assert made[0] == made[1] == made[2]
    assert [_digest(path) for path in made[0].train] == [_digest(path) for path in written.train]
    assert [path.name for path in tmp_path.iterdir()] == [made[0].train[0].parent.name]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Sample:
        raise OSError("disk full")

    monkeypatch.setattr(shards, "sample", broken)
    with pytest.raises(OSError, match="disk full"):
        scenes.ensure_shards(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    place = scenes.ensure_shards(tmp_path, train=1, dev=1, held_out=1).train[0].parent
    (place / "manifest.json").unlink()
    with pytest.raises(FileExistsError, match=r"it has no manifest\.json"):
        scenes.ensure_shards(tmp_path, train=1, dev=1, held_out=1)


def test_sizes_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train must be at least 1 sample, got 0"):
        scenes.ensure_shards(tmp_path, train=0)
    for split in ("dev", "held_out"):
        with pytest.raises(ValueError, match=f"{split} must be at least 1 sample, got -1"):
            scenes.ensure_shards(tmp_path, **{"train": 1, split: -1})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _ensure(folder: Path, results: multiprocessing.Queue) -> None:
    results.put(scenes.ensure_shards(folder, **SMALL))
