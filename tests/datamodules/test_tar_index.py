"""The tar index: equal to webdataset's own reading, kept beside the tar, never used for another tar."""

from __future__ import annotations

import io
import logging
import os
import tarfile

import pytest
import webdataset
from webdataset.tariterators import tarfile_to_samples

from datamodules.sample import SampleError
from datamodules.shards import tar_index
from datamodules.shards.discovery import ShardError, find_shards
from datamodules.shards.reader import IndexedShards
from datamodules.shards.tar_index import TarError, index_path, load_index, scan, stored_index, write_index
from lightning_modules.cli.main import main
from tests.helpers.tiny import make_sample, write_shards, write_tar


def everything(path) -> list[dict]:
    index = load_index(path)
    with path.open("rb") as file:
        return [index.read(file.fileno(), n) for n in range(len(index))]


def theirs(path) -> list[dict]:
    found = list(tarfile_to_samples()([{"url": str(path)}]))
    return [{k: v for k, v in members.items() if k not in ("__url__", "__local_path__")} for members in found]


def plain_tar(path, members, **settings) -> None:
    with tarfile.open(path, "w", **settings) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_those_of_webdataset(tmp_path, form):
    path = tmp_path / "a.tar"
    long = "deep/" * 20 + "name" if form == tarfile.USTAR_FORMAT else "d" * 150 + "/ümläut" * 20
    names = ["0001", "folder/0001", "folder.v2/b", long, "c"]
    members = [(f"{n}.{e}", f"{n}{e}".encode() * 7) for n in names for e in ("jpg", "json")]
    members += [("dots.PNG", b"p"), ("dots.json", b"j"), (".hidden", b"h"), ("e.cls", b"3"), ("f.jpg", b"")]
    plain_tar(path, members, format=form)
    expected = [m for m in theirs(path) if m.keys() & {"jpg", "png", "json"}]
    assert everything(path) == expected


GOOD = ("a", "IMG_1.2", "IMG_1.3", "b", "x/2024.01.05_c", ".hidden", "UPPER")


def test_names_with_dots_are_samples(tmp_path):
    path = tmp_path / "a.tar"
    members = [(f"{n}.{e}", f"{n}{e}".encode()) for n in GOOD for e in ("jpg" if n != "UPPER" else "JPG", "json")]
    plain_tar(path, members)
    assert [(m["__key__"], m["jpg"], m["json"]) for m in everything(path)] == [
        (n, f"{n}{'JPG' if n == 'UPPER' else 'jpg'}".encode(), f"{n}json".encode()) for n in GOOD
    ]
    assert load_index(path).strays == 0


def test_odd_names_beside_a_sample_belong_to_it(tmp_path):
    """Masks, depth maps and labels beside a sample, as WebDataset has them, are no samples and no strays."""
    path = tmp_path / "a.tar"
    names = ["a.seg.png", "a.txt", "a.jpg", "a.json", "a.depth.png", "b.json", "b.jpg", "b.cls", "b.2.jpg", "b.2.json"]
    plain_tar(path, [(name, name.encode()) for name in names])
    assert everything(path) == [
        {"__key__": "a", "jpg": b"a.jpg", "json": b"a.json"},
        {"__key__": "b", "jpg": b"b.jpg", "json": b"b.json"},
        {"__key__": "b.2", "jpg": b"b.2.jpg", "json": b"b.2.json"},
    ]
    assert load_index(path).strays == 0


def test_members_of_no_sample_are_counted_and_told(tmp_path, capsys, caplog, monkeypatch):
    path = tmp_path / "a.tar"
    strays = ["README.md", "e.cls", "f.tokens", "._a.jpg", "._a.json", "g.h.txt", "notes"]
    sample = make_sample(0).members()
    plain_tar(path, [*((name, b"x") for name in strays), ("a.b.jpg", sample["jpg"]), ("a.b.json", sample["json"])])
    index = load_index(path)
    assert (len(index), index.strays) == (1, len(strays))
    assert index.stray in strays
    assert main(["index", str(path)]) == 0
    assert "7 members belong to no sample" in capsys.readouterr().out
    kept = stored_index(path)
    assert kept is not None
    assert (kept.strays, kept.stray) == (7, index.stray)
    monkeypatch.setattr(logging.getLogger("grainclip"), "propagate", True)
    caplog.clear()
    IndexedShards.of(find_shards(path))
    message = f"7 members of 1 shards belong to no sample and are not read, such as {index.stray!r} of {path}"
    assert {r.getMessage() for r in caplog.records} == {message}


def test_a_compressed_tar_says_so(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    with pytest.raises(ShardError, match=r"it is compressed with gzip; decompress it first"):
        find_shards(path)


def test_members_that_stand_apart_or_twice(tmp_path):
    path = tmp_path / "a.tar"
    plain_tar(path, [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.json", b"3"), ("b.json", b"4"), ("a.jpg", b"5")])
    assert everything(path) == [
        {"__key__": "a", "jpg": b"1", "json": b"3"},
        {"__key__": "b", "jpg": b"2", "json": b"4"},
        {"__key__": "a", "jpg": b"5"},
    ]


def test_the_index_is_kept_and_only_believed_of_its_tar(tmp_path):
    path = write_shards(tmp_path, 6, 1)[0]
    assert stored_index(path) is None
    made = write_index(path)
    kept = stored_index(path)
    assert kept is not None
    assert (kept.spans == made.spans).all()
    assert [kept.key(n) for n in range(6)] == [made.key(n) for n in range(6)] == [f"{n:06d}" for n in range(6)]
    data = bytearray(path.read_bytes())
    data[100] ^= 1  # a header, not the size
    path.write_bytes(data)
    assert stored_index(path) is None
    write_tar(path, [make_sample(n) for n in range(9)])
    assert stored_index(path) is None
    assert len(load_index(path)) == 9
    for broken in (b"", b"PK\x03\x04 no archive", index_path(path).read_bytes()[:300]):
        index_path(path).write_bytes(broken)
        assert stored_index(path) is None


def test_a_damaged_tar_tells_what_it_still_holds(tmp_path):
    path = write_shards(tmp_path, 6, 1)[0]
    path.write_bytes(path.read_bytes()[: 512 * 9])
    with path.open("rb") as file, pytest.raises(TarError, match="cut") as caught:
        scan(file)
    assert len(caught.value.index) == 1
    with path.open("rb") as file:
        assert caught.value.index.read(file.fileno(), 0)["__key__"] == "000000"
        os.truncate(path, 600)
        with pytest.raises(SampleError, match="ends within"):
            caught.value.index.read(file.fileno(), 0)


def test_absurdly_large_members_are_not_read(tmp_path, monkeypatch):
    path = write_shards(tmp_path, 2, 1)[0]
    monkeypatch.setitem(tar_index.MOST_BYTES, "json", 10)
    with pytest.raises(SampleError, match="at most 10"):
        everything(path)


def test_the_command(tmp_path, capsys):
    paths = write_shards(tmp_path, 6, 3)
    assert main(["index", str(tmp_path)]) == 0
    assert "indexed 3 of 3 shards: 6 samples" in capsys.readouterr().out
    assert all(stored_index(path) is not None for path in paths)
    assert main(["index", str(tmp_path / "*.tar"), "--processes", "2"]) == 0
    assert "indexed 0 of 3 shards" in capsys.readouterr().out
    assert [s.samples for s in find_shards(tmp_path)] == [2, 2, 2]
    paths[0].write_bytes(b"no tar" * 200)
    for words, message in [
        ([str(tmp_path)], "train-000.tar is not a whole tar"),
        (["s3://bucket/a.tar"], "only local shards"),
        ([str(tmp_path), "--processes", "0"], "--processes must be a whole number of at least 1"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(["index", *words])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_tars_that_webdataset_writes(tmp_path):
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        for n in range(3):
            tar.write(make_sample(n).members())
    assert [m["__key__"] for m in everything(path)] == ["000000", "000001", "000002"]
