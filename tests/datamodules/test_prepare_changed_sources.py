"""The same command on a source that has changed: it is refused, so that no shard keeps old texts or misses samples."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules import prepare
from datamodules.prepare.job import PrepareJob
from tests.datamodules.prepared import read
from tests.helpers.tiny import picture, write_tar


def job(folder: Path, **options) -> PrepareJob:
    return PrepareJob(folder / "out", **{"extractor": "rules", "quiet": True, "samples_per_shard": 2} | options)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def dci(folder: Path, numbers: range, train: range) -> Callable[[], object]:
    for number in numbers:
        put(folder / "photos" / f"{number}.jpg", picture(number))
        row = {"image": f"{number}.jpg", "short_caption": "A cube.", "extra_caption": "A ball.", "mask_data": {}}
        put(folder / "annotations" / f"{number}.json", json.dumps(row).encode())
    splits = put(folder / "splits.json", json.dumps({"train": [f"{number}.json" for number in train]}).encode())
    return lambda: prepare.prepare_dci(folder / "photos", folder / "annotations", job(folder), splits)


def grit(folder: Path, numbers: range) -> Callable[[], object]:
    for number in numbers:
        fields = {"caption": "A dog.", "noun_chunks": [], "ref_exps": [], "width": 48, "height": 40}
        record = {**fields, "original_width": 48, "original_height": 40, "status": "success"}
        put(folder / "data" / f"{number}.jpg", picture(number))
        put(folder / "data" / f"{number}.json", json.dumps(record).encode())
    return lambda: prepare.prepare_grit(str(folder / "data"), job(folder))


def table(folder: Path, rows: dict[int, str], **options) -> Callable[[], object]:
    for number in rows:
        put(folder / "images" / f"{number}.jpg", picture(number))
    text = "".join(f"{number}.jpg,{caption}\n" for number, caption in rows.items())
    mine = put(folder / "mine.csv", f"image,caption\n{text}".encode())
    return lambda: prepare.prepare_table(folder / "images", mine, job(folder), **options)


def tars(folder: Path, caption: str, time: int) -> Callable[[], object]:
    tar = folder / "in.tar"
    write_tar(tar, [{"__key__": "1", "jpg": picture(1), "txt": caption.encode()}])
    os.utime(tar, (time, time))
    return lambda: prepare.prepare_tars(str(tar), job(folder))


CHANGES = {
    "a table of the same length": (
        lambda folder: table(folder, {1: "A cat.", 2: "A dog."}),
        lambda folder: table(folder, {1: "A dog.", 2: "A cat."}),
    ),
    "DCI's folder grows": (
        lambda folder: dci(folder, range(3), range(6)),
        lambda folder: dci(folder, range(3, 6), range(6)),
    ),
    "another list of DCI's": (
        lambda folder: dci(folder, range(6), range(2)),
        lambda folder: dci(folder, range(0), range(2, 5)),
    ),
    "GRIT's folder grows": (lambda folder: grit(folder, range(3)), lambda folder: grit(folder, range(3, 6))),
    "a tar of the same size": (
        lambda folder: tars(folder, "A cat.", 1000),
        lambda folder: tars(folder, "A fluffy cat on a sofa.", 2000),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changed_is_refused_and_nothing_is_touched(tmp_path, change):
    before, after = CHANGES[change]
    made = before(tmp_path)
    made()
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    made()  # the same source: nothing to do
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    changed = after(tmp_path)
    with pytest.raises(FileExistsError, match="of a run with other settings; give another folder, or --overwrite true"):
        changed()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


def test_an_image_that_came_later_is_told_of(tmp_path, caplog):
    made = table(tmp_path, {1: "A cat.", 2: "A dog.", 3: "A star."}, skip_missing=True)
    late = tmp_path / "images" / "2.jpg"
    late.unlink()
    with caplog.at_level("WARNING", "grainclip"):
        made()
    assert "not looked for again" not in caplog.text
    put(late, picture(2))
    with caplog.at_level("WARNING", "grainclip"):
        made()
    assert "1 images that were missing when their shards were made were not looked for again" in caplog.text
    assert sorted(read(tmp_path / "out")) == ["1", "3"]
