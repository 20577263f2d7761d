"""Shards: what is written can be read, whatever happens on the way."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.sample import SCHEMA_VERSION, Phrase, Region, Sample
from datamodules.shards.discovery import find_shards
from datamodules.shards.writer import require_free, write_shards


def make(key: str, **changes) -> Sample:
    sample = Sample(
        key=key,
        image=f"picture {key}".encode(),
        caption="A dog – it runs.",
        sentences=("A dog – it runs.",),
        phrases=(Phrase("A dog", 0, 0, 5, "dog"),),
        regions=(Region((0.1, 0.2, 0.5, 0.75), 0, "dog"), Region((0.0, 0.0, 1.0, 1.0))),
        source="test",
    )
    return replace(sample, **changes)


def read(path: Path) -> list[Sample]:
    groups: dict[str, dict] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            groups.setdefault(key, {"__key__": key})[extension] = tar.extractfile(member).read()
    return [Sample.from_members(group) for group in groups.values()]


def test_what_is_written_is_read_again(tmp_path):
    samples = [make("a"), make("b", extension="png"), make("sub/c", extension="webp", summary="A dog.")]
    write_shards(samples, tmp_path, source="test")
    assert read(tmp_path / "shard-000000.tar") == samples


@pytest.mark.parametrize(("count", "per_shard", "expected"), [(5, 2, [2, 2, 1]), (4, 2, [2, 2]), (1, 7, [1])])
def test_shards_are_filled_in_order(tmp_path, count, per_shard, expected):
    samples = [make(f"{i:03d}") for i in range(count)]
    write_shards(iter(samples), tmp_path, source="test", prefix="train", samples_per_shard=per_shard)
    shards = [read(tmp_path / f"train-{i:06d}.tar") for i in range(len(expected))]
    assert [len(shard) for shard in shards] == expected
    assert [sample for shard in shards for sample in shard] == samples
    assert len(list(tmp_path.iterdir())) == len(expected) + 1


def test_manifest(tmp_path):
    rejects = {"no caption": 2, "box": 1}
    samples = [make("a"), make("b"), make("c")]
    manifest = write_shards(samples, tmp_path, source="my set", samples_per_shard=2, rejects=rejects)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert manifest["source"] == "my set"
    assert manifest["version"] == SCHEMA_VERSION
    assert manifest["samples"] == 3
    assert manifest["rejects"] == rejects
    assert manifest["versions"]["webdataset"]
    for name, samples_in_it in (("shard-000000.tar", 2), ("shard-000001.tar", 1)):
        size = (tmp_path / name).stat().st_size
        assert manifest["shards"][name] == {"samples": samples_in_it, "bytes": size}
    assert [shard.samples for shard in find_shards(tmp_path)] == [2, 1]


def test_rejects_are_read_after_the_last_sample(tmp_path):
    rejects: dict[str, int] = {}

    def samples():
        yield make("a")
        rejects["late"] = 1

    assert write_shards(samples(), tmp_path, source="test", rejects=rejects)["rejects"] == {"late": 1}


def test_equal_samples_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        write_shards([make("a"), make("b")], tmp_path / name, source="test")
    one, two = ((tmp_path / name / "shard-000000.tar").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_folder_with_shards_is_refused_until_overwriting_is_asked_for(tmp_path):
    write_shards([make("a"), make("b")], tmp_path, source="old", samples_per_shard=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"already holds shard-000000\.tar .*--overwrite"):
        write_shards([make("c")], tmp_path, source="new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_shards([make("c")], tmp_path, source="new", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "shard-000000.tar"]
    assert [sample.key for sample in read(tmp_path / "shard-000000.tar")] == ["c"]


def test_other_files_of_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "val-000000.tar").write_bytes(b"other")
    assert require_free(tmp_path) == []
    write_shards([make("a")], tmp_path, source="test", overwrite=True)
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "val-000000.tar").exists()


def test_no_unfinished_shard_stays_behind(tmp_path):
    seen: list[list[str]] = []

    def samples():
        for key in "abc":
            yield make(key)
            seen.append(sorted(path.name for path in tmp_path.glob("*.tar")))
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_shards(samples(), tmp_path, source="test", samples_per_shard=2)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000000.tar"]
    assert [sample.key for sample in read(tmp_path / "shard-000000.tar")] == ["a", "b"]
    assert seen == [[], [], ["shard-000000.tar"]]


def test_leftovers_of_a_killed_run_are_cleared(tmp_path):
    (tmp_path / "shard-000000.tar.partial").write_bytes(b"half a shard")
    write_shards([make("a")], tmp_path, source="test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "shard-000000.tar"]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([make("a"), make("b"), make("a")], "keys must differ within a shard, got 'a'"),
        ([make("../a")], "a key must be made of .* got '../a'"),
        ([make("a.b")], "a key must be made of .* got 'a.b'"),
        ([make("")], "a key must be made of"),
        ([make("a", phrases=(Phrase("A cat", 0, 0, 5),))], "'a' breaks the shard schema: phrase 'A cat' is not"),
        ([make("a", regions=(Region((0.0, 0.0, 1.5, 1.0)),))], "'a' breaks the shard schema: box"),
        ([], "no sample of 'test' was left to write"),
    ],
)
def test_wrong_samples(tmp_path, samples, message):
    with pytest.raises(ValueError, match=message):
        write_shards(samples, tmp_path, source="test")
    assert list(tmp_path.iterdir()) == []


def test_wrong_limit(tmp_path):
    with pytest.raises(ValueError, match="samples_per_shard must be at least 1, got 0"):
        write_shards([make("a")], tmp_path / "new", source="test", samples_per_shard=0)
    assert not (tmp_path / "new").exists()
