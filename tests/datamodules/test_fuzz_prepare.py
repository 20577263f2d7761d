"""Whatever tars and annotation files hold: samples, or rejects that are counted; nothing is written elsewhere."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.formats.layout import LayoutError
from datamodules.prepare import prepare_table, prepare_tars
from datamodules.prepare.job import PrepareJob
from tests.datamodules.prepared import read
from tests.datamodules.test_fuzz import JSON, NAMES, png_bomb, tar_of
from tests.helpers.tiny import picture

FEW = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
ODD = st.text(max_size=40) | st.sampled_from(["A dog. " * 3000, "\ud800 dog", "\x00", "a\u202eb \ufeff", "<b>&#0;</b>"])
CAPTIONS = st.one_of(ODD.map(lambda text: {"caption": text}), JSON)


def inside(folder: Path) -> set[str]:
    """The test's own files outside the output folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "out" not in path.parts}


def prepared(folder: Path, write) -> tuple[int, int] | None:
    """Samples and rejects; None where the input was refused with its name."""
    before, refused = inside(folder), ""
    manifest = {"samples": 0, "rejects": {}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            manifest = write(PrepareJob(folder / "out", extractor="rules", overwrite=True))
    except ValueError as error:
        refused = str(error)
    assert inside(folder) == before
    if refused:
        assert "fuzz." in refused or "was left to write; rejected" in refused
        return None
    assert len(read(folder / "out")) == manifest["samples"]
    return manifest["samples"], sum(manifest["rejects"].values())


@FEW
@given(st.lists(st.tuples(NAMES, st.binary(max_size=60) | st.just(picture()) | CAPTIONS), max_size=8))
def test_tars_of_anything(tmp_path, members):
    raw = [(name, data if isinstance(data, bytes) else json.dumps(data).encode()) for name, data in members]
    try:
        (tmp_path / "fuzz.tar").write_bytes(tar_of(raw))
    except UnicodeEncodeError:
        return  # Python does not write such a name
    prepared(tmp_path, lambda job: prepare_tars(str(tmp_path / "fuzz.tar"), job))


@FEW
@given(st.lists(CAPTIONS, min_size=1, max_size=4), st.integers(0, 3000))
def test_samples_and_rejects_add_up(tmp_path, captions, cut):
    """Every image gives a sample or one reject; a tar that was cut is refused with its name."""
    members = [
        (f"{n}.{e}", d) for n, c in enumerate(captions) for e, d in (("jpg", picture()), ("json", json.dumps(c)))
    ]
    data = tar_of([(name, d if isinstance(d, bytes) else d.encode()) for name, d in members])
    (tmp_path / "fuzz.tar").write_bytes(data[: max(600, len(data) - 1024 - cut)] if cut > 1500 else data)
    result = prepared(tmp_path, lambda job: prepare_tars(str(tmp_path / "fuzz.tar"), job))
    if result is not None and cut <= 1500:
        assert sum(result) == len(captions)


@FEW
@given(
    st.lists(CAPTIONS, max_size=4), st.sampled_from(["1.jpg", "../1.jpg", "/1.jpg", "no.jpg", "bomb.png", "", None, 3])
)
def test_tables_of_anything(tmp_path, rows, image):
    (tmp_path / "1.jpg").write_bytes(picture())
    (tmp_path / "bomb.png").write_bytes(png_bomb(60_000))
    rows = [row if isinstance(row, dict) else {"caption": row} for row in rows]
    (tmp_path / "fuzz.json").write_text(json.dumps([{"image": image, **row} for row in rows]))
    prepared(
        tmp_path,
        lambda job: prepare_table(tmp_path, tmp_path / "fuzz.json", job, skip_missing=True),
    )


@pytest.mark.parametrize(
    "text", ["", "[", '[{"image": "1.jpg", "caption"', '[{"image": 1}]', "[[]]", "null", "\ufeff[{}]"]
)
def test_broken_tables(tmp_path, text):
    (tmp_path / "fuzz.json").write_text(text)
    with pytest.raises(LayoutError, match=r"fuzz\.json"):
        prepare_table(tmp_path, tmp_path / "fuzz.json", PrepareJob(tmp_path / "out", extractor="rules"))
