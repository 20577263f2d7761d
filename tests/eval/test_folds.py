"""Retrieval within folds is retrieval on each, and their mean."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from eval.benchmarks.coco_captions import coco_karpathy, coco_karpathy_1k
from eval.data.sources import ImagePixels
from eval.interfaces import EvalContext
from eval.protocols.image_text_retrieval import ImageTexts, retrieve, retrieve_in_folds
from eval.results.compare import intervals
from tests.eval import releases
from tests.eval.official import ColourModel


class Words(ColourModel):
    """A text is a vector drawn from its length."""

    def encode_text(self, texts):
        rows = [torch.randn(3, generator=torch.Generator().manual_seed(len(text))) for text in texts]
        return functional.normalize(torch.stack(rows), dim=1)


def example(count):
    rng = np.random.default_rng(0)
    sources = [ImagePixels(str(n), np.full((4, 4, 3), rng.integers(1, 256, 3), np.uint8)) for n in range(count)]
    return [(source, ["x" * (7 * n + k) for k in range(1 + n % 3)]) for n, source in enumerate(sources)]


def test_numbers_are_the_means_of_the_folds(tmp_path):
    whole = example(20)
    data = ImageTexts([s for s, _ in whole], [t for _, t in whole], {})
    result = retrieve_in_folds("x", Words(), EvalContext(tmp_path), data, "words", folds=4)
    parts = []
    for first in range(0, 20, 5):
        fold = whole[first : first + 5]
        fold_data = ImageTexts([s for s, _ in fold], [t for _, t in fold], {})
        parts.append(retrieve("x", Words(), EvalContext(tmp_path), fold_data, "words", (1, 5, 10)))
    for name, number in result.numbers.items():
        mean = sum(part.numbers[name] for part in parts) / 4
        assert number == pytest.approx(4 * mean if name.endswith("queries") else mean), name
    assert 0 < result.numbers["x/text_to_image/R@1"] < 1
    assert result.numbers["x/text_to_image/chance"] == 0.2
    assert result.settings["folds"] == [5, 5, 5, 5]
    for way in ("text_to_image", "image_to_text"):
        table = result.items[f"x/{way}"].columns
        fold_data = [part.items[f"x/{way}"].columns for part in parts]
        assert table["rank"] == [rank for part in fold_data for rank in part["rank"]]
        assert table["nearest"] == [name for part in fold_data for name in part["nearest"]]
        low, high = intervals(result.items[f"x/{way}"], 50)[f"x/{way}/R@1"]
        assert low <= result.numbers[f"x/{way}/R@1"] <= high


def test_coco_s_1k_takes_five_captions_in_the_file_s_order(tmp_path):
    releases.write_karpathy(tmp_path, 10)
    result, whole = (benchmark(ColourModel(), EvalContext(tmp_path)) for benchmark in (coco_karpathy_1k, coco_karpathy))
    assert (result.settings["texts"], whole.settings["texts"]) == (50, 51)
    assert result.settings["folds"] == [2] * 5
    assert result.numbers["coco_karpathy_1k/text_to_image/strict_R@1"] == 1.0  # two colours a fold
    assert whole.numbers["coco_karpathy/text_to_image/strict_R@1"] == 0.0
    assert result.numbers["coco_karpathy_1k/image_to_text/queries"] == 10


def test_fewer_images_than_folds_are_refused(tmp_path):
    releases.write_karpathy(tmp_path)
    with pytest.raises(ValueError, match="coco_karpathy_1k needs an image for each of 5 folds, got 3"):
        coco_karpathy_1k(ColourModel(), EvalContext(tmp_path))
