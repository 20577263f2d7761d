"""Whatever stands in a tar or its JSON: a sample or a counted skip that names shard and key, never another crash."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import warnings
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.batching.collate import SamplePreprocessor, collate
from datamodules.batching.image_transforms import Squash
from datamodules.batching.text_sampling import GrainSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.reading.bad_samples import DataError, SkipPolicy
from datamodules.reading.local_shards import IndexedPass
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.reading.remote_shards import StreamPass
from datamodules.sample import Sample, SampleError
from datamodules.shards.discovery import ShardError, find_shards
from datamodules.shards.download import FetchPolicy
from datamodules.shards.reader import IndexedShards
from tests.helpers.tiny import make_sample, picture

PREPARE = SamplePreprocessor(16, Squash(), GrainSampling(2, 2, 1), Tokenizer(77), random_texts=True)
FEW = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
NAMES = st.one_of(
    st.sampled_from(["a.jpg", "a.json", "../../a.jpg", "../../a.json", "/etc/a.json", "a/../b.jpg", ".json", "b.png"]),
    st.text(max_size=30).filter(lambda name: "\0" not in name),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["caption", "sentences", "phrases", "regions", "choices", "summary", "version", "source"]
INNER = ["text", "start", "end", "sentence", "lemma", "box", "phrase", "label", "region", "level", "texts"]


def read(folder: Path, data: bytes) -> tuple[int, Counter[str]]:
    """Samples and skips of a tar, by both readers; only errors that name the shard may come."""
    path = folder / "fuzz.tar"
    path.write_bytes(data)
    results, complaints = [], []
    for remote in (False, True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                batches = _stream(path) if remote else _indexed(path)
            skips = sum(
                (Counter({k: n for k, n in b.counts.items() if k[:7] == "skipped"}) for b in batches), Counter()
            )
            results.append((sum(len(b.keys) for b in batches), skips))
        except (ShardError, DataError) as error:
            complaints.append(str(error))
            results.append((0, Counter()))
    assert all("fuzz.tar" in complaint for complaint in complaints)
    assert {p.name for p in folder.iterdir()} == {"fuzz.tar"}
    return results[0]


def _indexed(path: Path) -> list:
    reader = IndexedPass(IndexedShards.of(find_shards(path)), ReaderSettings(PREPARE, 3, skip=SkipPolicy(1.0)))
    return [reader[i] for i in range(len(reader))]


def _stream(path: Path) -> list:
    settings = ReaderSettings(PREPARE, 3, skip=SkipPolicy(1.0), fetch=FetchPolicy(tries=1))
    return list(StreamPass([str(path)], settings))


def tar_of(members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def whole_tar() -> bytes:
    members = [
        (f"{s.key}.{e}", d) for s in map(make_sample, range(3)) for e, d in s.members().items() if e != "__key__"
    ]
    return tar_of(members)


@FEW
@given(st.data())
def test_tars_with_broken_bytes(tmp_path, data):
    raw = bytearray(whole_tar())
    for _ in range(data.draw(st.integers(0, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for _ in range(data.draw(st.integers(0, 2))):  # numbers of headers: size, checksum, kind
        at = data.draw(st.sampled_from([124, 148, 156, 345])) + 512 * data.draw(st.integers(0, len(raw) // 512 - 1))
        noise = data.draw(st.binary(max_size=12))
        raw[at : at + len(noise)] = noise
    read(tmp_path, bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw))


@FEW
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=60) | st.just(picture())), max_size=8),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_tars_of_any_members(tmp_path, members, form):
    try:
        data = tar_of(members, form)
    except UnicodeEncodeError:
        return  # Python does not write such a name
    read(tmp_path, data)


@FEW
@given(st.binary(max_size=2000))
def test_files_of_anything(tmp_path, data):
    read(tmp_path, data)


def check_json(raw: bytes, image: bytes | None = None) -> str:
    """The reason why the sample is left out, "" where it is used; any other error fails the test."""
    members = {"__key__": "k", "jpg": picture() if image is None else image, "json": raw}
    try:
        item = PREPARE(Sample.from_members(members), random.Random(0))
    except SampleError as error:
        return error.reason
    collate([item])
    return ""


@FEW
@given(st.one_of(st.binary(max_size=200), JSON.map(lambda v: json.dumps(v).encode())))
def test_json_of_anything(raw):
    check_json(raw)


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_json_that_is_almost_right(data):
    record = json.loads(make_sample(0).members()["json"])
    for _ in range(data.draw(st.integers(1, 3))):
        place = record
        field = data.draw(st.sampled_from(FIELDS))
        if isinstance(record.get(field), list) and record[field] and data.draw(st.booleans()):
            place, field = record[field], data.draw(st.integers(0, len(record[field]) - 1))
            if isinstance(place[field], dict) and data.draw(st.booleans()):
                place, field = place[field], data.draw(st.sampled_from(INNER))
        place[field] = data.draw(JSON | st.lists(st.floats(-1, 2), min_size=4, max_size=4) | st.just("\ud800 odd"))
    check_json(json.dumps(record).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"caption": "a", "caption": ["b"]}',  # the last one counts, as everywhere in Python
        b'{"caption": "\\ud800"}',
        b'{"caption": "a", "regions": [{"box": [0, 0, 1, 1], "label": "\\ud800"}]}',
        b'{"caption": "' + b"x " * 300_000 + b'"}',
        b"[" * 100_000,
        b'{"caption": ' + b"1" * 10_000 + b"}",
        b'{"caption": "a", "regions": [{"box": [1e999, 0, 1, NaN]}]}',
        b'{"caption": "a", "regions": [{"box": [' + b"9" * 400 + b", 0, 1, 1]}]}",
        b"",
        b"null",
        '{"caption": "\u202e\u0000\ufeff"}'.encode("utf-16"),
    ],
)
def test_known_oddities(raw):
    check_json(raw)


def png_bomb(side: int) -> bytes:
    """A valid header of ``side``² pixels, and data that inflates to a mebibyte of nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [1 << 30, 60_000, 13_500, 0])
def test_decompression_bombs(tmp_path, side):
    good = make_sample(0).members()
    bomb = {"jpg": png_bomb(side), "json": good["json"]}
    members = [("a.jpg", good["jpg"]), ("a.json", good["json"]), *((f"b.{e}", d) for e, d in bomb.items())]
    samples, skips = read(tmp_path, tar_of(members))
    assert samples == 1
    assert skips == {"skipped/image": 1}


@pytest.mark.parametrize(
    "name", ["../../../escape", "/escape", "a/../../escape", "C:\\escape", "escape\n", "\x1b[31mred"]
)
def test_names_that_try_tricks_are_only_names(tmp_path, name):
    good = make_sample(0).members()
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    samples, _ = read(folder, tar_of([(f"{name}.jpg", good["jpg"]), (f"{name}.json", good["json"])]))
    assert samples == 1
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["fuzz.tar", "in", "side"]


@FEW
@given(st.data())
def test_pictures_with_broken_bytes(data):
    form = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF"]))
    raw = bytearray(picture(0, format=form))
    for _ in range(data.draw(st.integers(0, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert check_json(make_sample(0).members()["json"], cut) in ("", "image")
