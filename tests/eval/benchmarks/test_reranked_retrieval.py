"""``EvalContext.rerank``: retrieval re-ranked by the pooling block, beside a loop over every pair in float64."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch

from eval.benchmarks.catalogue import BENCHMARKS, benchmark, retrieves
from eval.data.image_preprocessing import centre_crop
from eval.data.sources import ImagePixels
from eval.interfaces import EvalContext
from eval.protocols.embed import as_pixels
from eval.protocols.image_text_retrieval import ImageTexts, retrieve, retrieve_in_folds
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import DualEncoder, TextConditionedPooling
from tests.eval import releases
from tests.eval.test_reranking import loop
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny_run import TINY

WORDS = ("red", "green", "cube", "ball", "boat", "lamp", "star", "ring")


def model() -> EvaluationModel:
    """A tiny encoder that tells images apart, with a pooling block far from transparent; both are random."""
    torch.manual_seed(0)
    encoder, pooling = DualEncoder(TINY), TextConditionedPooling(TINY.embed_dim, 2)
    with torch.no_grad():
        for parameter in encoder.image_tower.parameters():
            parameter.mul_(25 if parameter.dim() > 1 else 1)
        for parameter in pooling.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return EvaluationModel(encoder, torch.device("cpu"), pooling)


def data(count: int = 21) -> ImageTexts:
    """Images of four colours with one to three captions each; some captions stand twice."""
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    images = [ImagePixels(str(n), pixels) for n, pixels in enumerate(colours)]
    captions = [
        [f"a {WORDS[rng.integers(8)]} {WORDS[rng.integers(8)]}" for _ in range(1 + n % 3)] for n in range(count)
    ]
    return ImageTexts(images, captions, {})


def expected(model: EvaluationModel, data: ImageTexts, k: int) -> list[list[int]]:
    """The ranks by a loop: every text pools every image by itself, in float64."""
    texts = [text for captions in data.captions for text in captions]
    owner = torch.tensor([n for n, captions in enumerate(data.captions) for _ in captions])
    squares = torch.stack([as_pixels(centre_crop(image.open(), TINY.image_size)) for image in data.images])
    features, vectors = model.encode_image(squares), model.encode_text(texts)
    pooling, second = copy.deepcopy(model.pooling).double(), torch.zeros(len(texts), len(squares)).double()
    for t in range(len(texts)):
        for i in range(len(squares)):
            patches = torch.nn.functional.normalize(features.dense[i].double().flatten(1).T, dim=1)
            view = pooling(vectors[t][None, None].double(), patches[None])[0, 0]
            second[t, i] = (view * vectors[t].double()).sum()
    for scores in (vectors.double() @ features.image.double().T, second):
        assert are_apart(scores)
        assert are_apart(scores.T)
    return loop(features.image, vectors, owner, (second * 1e6).round(), k)


def are_apart(scores: torch.Tensor) -> bool:
    """True where all scores of a row are equal or so far apart that float32 does not make them equal."""
    steps = scores.sort(dim=1).values.diff(dim=1)
    return bool(((steps < 1e-9) | (steps > 5e-6)).all())


@pytest.mark.parametrize("k", [1, 4, 100])
def test_every_pair_by_itself_in_float64(k, tmp_path):
    tested, samples = model(), data()
    result = retrieve("x", tested, EvalContext(tmp_path, batch_size=4, rerank=k), samples, "loop", (1, 5))
    wanted = expected(tested, samples, k)
    for direction, (better, no_worse) in {"text_to_image": wanted[:2], "image_to_text": wanted[3:5]}.items():
        head = f"x/reranked_{k}/{direction}"
        assert result.items[head].columns["rank"] == better
        assert result.items[head].columns["tied"] == [a != b for a, b in zip(better, no_worse, strict=True)]
        assert result.numbers[f"{head}/R@5"] == pytest.approx(np.mean(np.array(better) < 5))
    plain = retrieve("x", tested, EvalContext(tmp_path), samples, "loop", (1, 5))
    assert {name: result.numbers[name] for name in plain.numbers} == plain.numbers
    before, after = (r.items[f"x/{h}text_to_image"] for r, h in ((plain, ""), (result, f"reranked_{k}/")))
    assert (k == 1) == (after.columns["rank"] == before.columns["rank"])  # one candidate has no other order
    assert "cosine of the text and the image pooled by it" in result.settings["reranked"]


class Watched(EvaluationModel):
    """Notes how many texts and images each pooling sees."""

    def condition(self, texts, dense, image):
        self.seen = [*getattr(self, "seen", []), (len(texts), len(dense))]
        return super().condition(texts, dense, image)


def test_memory_is_bound_and_parts_change_nothing(monkeypatch, tmp_path):
    plain = model()
    watched = Watched(plain.encoder, plain.device, plain.pooling)
    monkeypatch.setattr("eval.protocols.reranking.TEXTS", 8)
    results = [
        retrieve("x", one, EvalContext(tmp_path, batch_size=size, rerank=30), data(), "parts", (1,))
        for one, size in ((watched, 2), (plain, 32))
    ]
    assert max(texts for texts, _ in watched.seen) == 8
    assert {images for _, images in watched.seen} == {1}
    first, second = (result.items["x/reranked_30/text_to_image"].columns for result in results)
    assert first["rank"] == second["rank"]
    assert first["nearest"] == second["nearest"]


def on_ranks(root: str) -> dict[str, float]:
    return retrieve("x", model(), EvalContext(root, batch_size=2, rerank=6), data(), "ranks", (1, 5)).numbers  # pyright: ignore


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_work_and_change_nothing(ranks, tmp_path):
    assert run_on_ranks(on_ranks, ranks, tmp_path) == [on_ranks(tmp_path)] * ranks


def test_folds_are_re_ranked_each_by_itself(tmp_path):
    tested, samples = model(), data()
    result = retrieve_in_folds("x", tested, EvalContext(tmp_path, rerank=3), samples, "folds", folds=3)
    parts = [
        retrieve("x", tested, EvalContext(tmp_path, rerank=3), part, "part", (1, 5, 10))
        for part in (ImageTexts(samples.images[n : n + 7], samples.captions[n : n + 7], {}) for n in (0, 7, 14))
    ]
    for name in ("x/reranked_3/text_to_image/R@1", "x/reranked_3/image_to_text/R@5"):
        assert result.numbers[name] == pytest.approx(sum(part.numbers[name] for part in parts) / 3)


def test_texts_of_several_images_pool_each_their_own():
    tested = model()
    dense, texts = torch.randn(3, 16, 2, 2), torch.nn.functional.normalize(torch.randn(7, 16), dim=1)
    image = torch.tensor([2, 0, 2, 2, 0, 2, 2])  # image 1 has none: its slots are padding
    together = tested.condition(texts, dense, image)
    for n, number in enumerate(image.tolist()):
        alone = tested.condition(texts[n : n + 1], dense[number : number + 1], torch.zeros(1, dtype=torch.long))
        torch.testing.assert_close(together[n], alone[0])


def test_a_model_without_a_block_is_refused(tmp_path):
    plain = EvaluationModel(model().encoder, torch.device("cpu"))
    with pytest.raises(ValueError, match="--model must be a checkpoint of BetaClip or GrainClip"):
        retrieve("x", plain, EvalContext(tmp_path, rerank=3), data(), "none", (1,))
    with pytest.raises(ValueError, match="rerank must be at least 1, got 0"):
        EvalContext(tmp_path, rerank=0)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_which_benchmarks_can_be_re_ranked(name):
    function: Any = benchmark(name)
    module = inspect.getmodule(function if inspect.isfunction(function) else type(function))
    assert retrieves(name) == (hasattr(module, "retrieve") or hasattr(module, "retrieve_in_folds"))


def test_which_kinds_can_be_re_ranked(tmp_path):
    kinds = ("retrieval", "shards", "wds", "oracle", "folder", "himo")
    assert [retrieves(f"{kind}:x") for kind in kinds] == [True, True, True, False, False, False]
    releases.write_wds(tmp_path / "w", "classification", [[("red", "0")]])
    with pytest.raises(ValueError, match=r"which wds:w is not: .*dataset_type\.txt must say so, got classification"):
        benchmark("wds:w")(model(), EvalContext(tmp_path, rerank=3))
