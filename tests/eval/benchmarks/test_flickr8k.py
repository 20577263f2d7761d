"""Flickr8k's benchmarks on small and on real files: its splits, five captions an image, and the five as one text."""

from __future__ import annotations

import pytest
import torch

from eval.benchmarks.catalogue import benchmark
from eval.interfaces import EvalContext
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import DualEncoder
from tests.eval import releases
from tests.eval.benchmarks.test_image_text import measures
from tests.eval.official import ColourModel
from tests.helpers.tiny_run import TINY

ALL = ("flickr8k", "flickr8k_joined", "flickr8k_dev", "flickr8k_dev_joined")


def test_the_splits_and_their_captions(tmp_path):
    releases.write_flickr8k(tmp_path)
    results = {name: benchmark(name)(ColourModel(), EvalContext(tmp_path)) for name in ALL}
    assert {name: (r.settings["images"], r.settings["texts"]) for name, r in results.items()} == {
        "flickr8k": (2, 10), "flickr8k_joined": (2, 2), "flickr8k_dev": (2, 10), "flickr8k_dev_joined": (2, 2)
    }  # fmt: skip
    for name, result in results.items():
        for way in ("text_to_image", "image_to_text"):
            assert [measures(result, way)[f"R@{k}"] for k in (1, 5, 10)] == [1.0, 1.0, 1.0]
            assert measures(result, way)["ties"] == 0
        split = "dev" if "dev" in name else "test"
        assert list(result.settings["files"]) == ["Flickr8k.token.txt", f"Flickr_8k.{split}Images.txt"]
        assert result.items[f"{name}/image_to_text"].columns["image"] == [f"{split}_0.jpg", f"{split}_1.jpg"]


def test_captions_stand_as_released_and_are_mended_where_they_are_joined(tmp_path):
    releases.write_flickr8k(tmp_path)
    plain, joined = ColourModel(), ColourModel()
    benchmark("flickr8k_dev")(plain, EvalContext(tmp_path))
    benchmark("flickr8k_dev_joined")(joined, EvalContext(tmp_path))
    assert plain.texts[:2] == ["A green thing , 0 of five", "A green thing , 1 of five ."]
    assert joined.texts[0] == " ".join(f"A green thing, {n} of five." for n in range(5))


def test_a_caption_of_another_image_costs_its_own_query_alone(tmp_path):
    file = releases.write_flickr8k(tmp_path)
    file.write_text(file.read_text().replace("A green thing , 3", "A red thing , 3"))
    result = benchmark("flickr8k_dev")(ColourModel(), EvalContext(tmp_path))
    assert (measures(result)["R@1"], measures(result, "image_to_text")["R@1"]) == (0.9, 1.0)
    joined = benchmark("flickr8k_dev_joined")(ColourModel(), EvalContext(tmp_path))
    assert measures(joined)["R@1"] == measures(joined, "image_to_text")["R@1"] == 1.0


def test_joined_captions_that_are_cut_are_counted(tmp_path):
    releases.write_flickr8k(tmp_path)
    assert benchmark("flickr8k_joined")(ColourModel(), EvalContext(tmp_path)).counts == {"text cut at 20 tokens": 2}


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("", "Flicker8k_Dataset"),
        ("flickr8k", "flickr8k/Images"),
        ("Flickr8k_text", "Flicker8k_Dataset"),
        ("flickr8k/Flickr8k_text", "flickr8k/Flicker8k_Dataset"),
    ],
)
def test_the_folders_in_which_it_is_unpacked(tmp_path, text, images):
    source = releases.write_flickr8k(tmp_path / "source").parent
    for file in source.glob("*.txt"):
        (tmp_path / text).mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / text / file.name)
    (tmp_path / images).parent.mkdir(parents=True, exist_ok=True)
    (source / "Flicker8k_Dataset").rename(tmp_path / images)
    assert benchmark("flickr8k")(ColourModel(), EvalContext(tmp_path)).settings["images"] == 2


def test_missing_files_are_named_and_missing_images_counted(tmp_path):
    folder = releases.write_flickr8k(tmp_path).parent
    (folder / "Flicker8k_Dataset" / "test_1.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 2 files of .*Flickr_8k\.testImages\.txt are missing, .*test_1"
    ):
        benchmark("flickr8k")(ColourModel(), EvalContext(tmp_path))
    result = benchmark("flickr8k")(ColourModel(), EvalContext(tmp_path, skip_missing=True))
    assert (result.settings["images"], result.settings["texts"], result.counts) == (1, 5, {"image missing": 1})
    (folder / "Flickr_8k.testImages.txt").write_text("test_0.jpg\ntest_9.jpg\n")
    with pytest.raises(ValueError, match=r"every image must have a caption, got none for 'test_9\.jpg'"):
        benchmark("flickr8k")(ColourModel(), EvalContext(tmp_path))
    (folder / "Flickr_8k.testImages.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"the annotation file .*Flickr_8k\.testImages\.txt does not exist"):
        benchmark("flickr8k")(ColourModel(), EvalContext(tmp_path))
    (folder / "Flickr8k.token.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no Flickr8k\.token\.txt, no flickr8k/Flickr8k\.token\.txt"):
        benchmark("flickr8k_dev")(ColourModel(), EvalContext(tmp_path))


@pytest.mark.slow
def test_the_thousand_dev_photographs(shared):
    if not (shared / "data" / "flickr8k").is_dir():
        pytest.skip("needs Flickr8k's photographs and captions in ../shared/data/flickr8k")
    torch.manual_seed(0)
    model = EvaluationModel(DualEncoder(TINY), torch.device("cpu"))
    run = EvalContext(shared / "data", batch_size=100)
    for name, texts in (("flickr8k_dev", 5000), ("flickr8k_dev_joined", 1000)):
        result = benchmark(name)(model, run)
        assert (result.settings["images"], result.settings["texts"]) == (1000, texts)
        assert measures(result)["queries"] == texts
        assert measures(result, "image_to_text")["queries"] == 1000
        assert 0 <= measures(result)["R@1"] <= measures(result)["R@5"] <= measures(result)["R@10"] < 0.1  # untrained
