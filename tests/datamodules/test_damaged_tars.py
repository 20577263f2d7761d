"""A tar that is cut, or holds flipped bytes: every reader of tars says so in one line, and takes nothing from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.prepare import prepare_grit, prepare_tars
from datamodules.prepare.job import PrepareJob
from datamodules.shards.discovery import find_shards
from eval.benchmarks.webdataset import WebDataset
from eval.data.shard_samples import read_shard_samples
from eval.interfaces import EvalContext
from tests.eval.official import ColourModel
from tests.helpers.tiny import make_sample, picture, write_tar


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flipped(data: bytes) -> bytes:
    """The checksum of a header in the middle no longer fits."""
    at = 512 * (len(data) // 1024)
    while data[at + 257 : at + 262] != b"ustar":
        at += 512
    return data[: at + 100] + bytes(b ^ 0x55 for b in data[at + 100 : at + 160]) + data[at + 160 :]


def captioned(number: int) -> dict:
    record = {"caption": "a red cube", "width": 48, "height": 40, "noun_chunks": [], "ref_exps": []}
    return {"__key__": f"{number}", "jpg": picture(number), "json": json.dumps(record).encode(), "txt": b"a red cube"}


def classes(path: Path) -> None:
    (path.parent / "nshards.txt").write_text("1")
    (path.parent.parent / "dataset_type.txt").write_text("retrieval")


def cut_between_members(data: bytes) -> bytes:
    at = data.rindex(b"ustar") - 257
    return data[:at]


def two_put_together(data: bytes) -> bytes:
    return data + data


READERS = {
    "tars": lambda path: prepare_tars(str(path), PrepareJob(path.parent / "out", extractor="rules")),
    "grit": lambda path: prepare_grit(str(path), PrepareJob(path.parent / "out", extractor="rules")),
    "predict": lambda path: list(read_shard_samples(find_shards(path))),
    "wds": lambda path: WebDataset(str(path.parent.parent))(ColourModel(), EvalContext(Path())),
}


@pytest.mark.parametrize("damage", [cut, cut_between_members, flipped, two_put_together])
@pytest.mark.parametrize("reader", READERS)
def test_one_line_names_the_tar_and_the_damage(tmp_path, reader, damage):
    path = tmp_path / "test" / "0.tar"
    path.parent.mkdir()
    write_tar(path, [make_sample(n) if reader == "predict" else captioned(n) for n in range(6)])
    classes(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cut: |is no tar header|more stands behind its end") as caught:
        READERS[reader](path)
    message = str(caught.value).replace(str(tmp_path), "")
    assert "0.tar" in message
    assert "\n" not in message
    assert len(message) <= 200
    assert not list(tmp_path.rglob("*.tar.partial"))
    assert not list((path.parent / "out").glob("*.tar")) if reader in ("tars", "grit") else True
