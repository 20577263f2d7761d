"""``shards:PATH``: retrieval on prepared shards, at every grain that all samples have, as other benchmarks count it."""

from __future__ import annotations

import csv
import json

import pytest

from datamodules.prepare import prepare_table
from datamodules.prepare.job import PrepareJob
from eval.benchmarks.retrieval_file import RetrievalFile
from eval.benchmarks.shards import Shards
from eval.interfaces import EvalContext
from lightning_modules import ClipFinetune
from lightning_modules.cli.main import main
from tests.eval.official import ColourModel
from tests.helpers.tiny import picture
from tests.helpers.tiny_run import fit

COLOURS = ("red", "green", "blue")


@pytest.fixture
def table(tmp_path):
    """Nine images in three colours, two captions each, one of them wrong, and the shards of them."""
    rows = [("image", "caption", "short")]
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
        for word in (COLOURS[number % 3], COLOURS[(number + number // 8) % 3]):
            rows.append((f"{number}.png", f"A {word} thing, number {number}.", f"{word} {number}"))
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    job = PrepareJob(tmp_path / "mine", extractor="rules", samples_per_shard=4, quiet=True)
    prepare_table(tmp_path, tmp_path / "t.csv", job, join_rows=True, summary_column="short")
    return tmp_path / "t.csv"


def test_sentences_are_ranked_as_the_captions_of_the_table_they_come_from(table):
    folder = table.parent
    ours = Shards("mine")(ColourModel(), EvalContext(folder))
    theirs = RetrievalFile("t.csv")(ColourModel(), EvalContext(folder))
    for way in ("text_to_image", "image_to_text"):
        for number in ("R@1", "R@5", "mean_rank", "ties", "queries"):
            assert ours.numbers[f"shards:mine/sentence/{way}/{number}"] == theirs.numbers[f"retrieval:t/{way}/{number}"]
    assert ours.numbers["shards:mine/sentence/text_to_image/queries"] == 18
    assert ours.numbers["shards:mine/caption/text_to_image/queries"] == 9
    assert ours.numbers["shards:mine/summary/image_to_text/queries"] == 9
    assert ours.settings["grains"]["sentence"]["texts"] == 18
    assert set(ours.items) == {f"shards:mine/{grain}/{way}" for grain in ("caption", "summary", "sentence")
                               for way in ("text_to_image", "image_to_text")}  # fmt: skip


def test_images_are_embedded_once(table):
    model = ColourModel()
    seen = []
    encode = model.encode_image
    model.encode_image = lambda images: seen.append(len(images)) or encode(images)
    Shards("mine/*.tar")(model, EvalContext(table.parent))
    assert sum(seen) == 9


def test_a_grain_that_some_sample_lacks_is_left_out(table, tmp_path):
    rows = table.read_text().splitlines()
    rows[1] = rows[2] = rows[1].rpartition(",")[0] + ","
    table.write_text("\n".join(rows))
    job = PrepareJob(tmp_path / "gaps", extractor="rules", quiet=True)
    prepare_table(tmp_path, table, job, join_rows=True, summary_column="short")
    result = Shards("gaps")(ColourModel(), EvalContext(tmp_path))
    assert list(result.settings["grains"]) == ["caption", "sentence"]


def test_nothing_matches(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere"):
        Shards("nowhere")(ColourModel(), EvalContext(tmp_path))


def test_by_command(table, monkeypatch):
    fit(table.parent / "run", epochs=1, method=ClipFinetune)
    monkeypatch.chdir(table.parent)
    given = ["--root", ".", "--device", "cpu", "--bootstrap", "10", "--out", "out"]
    assert main(["evaluate", "--model", "run/checkpoints/last.ckpt", "--benchmark", "shards:mine", *given]) == 0
    numbers = json.loads((table.parent / "out" / "results.json").read_text())
    assert "shards:mine/caption/text_to_image/R@1" in json.dumps(numbers)
