"""Re-ranking beside a plain loop in float64: order, ties, what lies behind the shortlist, and how memory is bound."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from eval import rerank
from eval.metrics.bidirectional_ranking import rank_bidirectional
from eval.metrics.ranking import NEVER


def example(images=40, texts=130, seed=0):
    """Unit vectors of images and of texts, each text of one image."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(images), torch.randint(0, images, (texts - images,), generator=generator)])
    image_vectors = functional.normalize(torch.randn(images, 8, generator=generator), dim=1)
    text_vectors = functional.normalize(image_vectors[owner] + torch.randn(texts, 8, generator=generator), dim=1)
    return image_vectors, text_vectors, owner


def second_score(images, texts, seed=1):
    """A matrix [texts, images] of scores that has little to do with the cosine, coarse enough for ties."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(texts), len(images), generator=generator)
    return ((texts @ images.T + noise) * 4).round() / 4


def by_loop(cosine, second, right, k):
    """Ranks of one query, both ways, and its nearest candidate: candidates are put into a list and counted."""
    candidates = sorted(range(len(cosine)), key=lambda n: (-cosine[n], n))
    inside, outside = candidates[:k], candidates[k:]
    hits = [n for n in inside if right[n]]
    nearest = min(inside, key=lambda n: (-second[n], n))
    if hits:
        best = max(second[n] for n in hits)
        better = sum(second[n] > best for n in inside)
        return better, sum(second[n] >= best and not right[n] for n in inside), nearest
    behind = [n for n in outside if right[n]]
    if not behind:
        return NEVER, NEVER, nearest
    best = max(cosine[n] for n in behind)
    better = len(inside) + sum(cosine[n] > best for n in outside)
    return better, len(inside) + sum(cosine[n] >= best and not right[n] for n in outside), nearest


def loop(images, texts, owner, second, k):
    cosine, second = (texts.double() @ images.double().T).tolist(), second.double().tolist()
    rows = [by_loop(cosine[t], second[t], [n == owner[t] for n in range(len(images))], k) for t in range(len(texts))]
    columns = [
        by_loop([row[i] for row in cosine], [row[i] for row in second], [o == i for o in owner.tolist()], k)
        for i in range(len(images))
    ]
    return [list(part) for part in (*zip(*rows, strict=True), *zip(*columns, strict=True))]


def lists(ranks):
    return [
        part.tolist()
        for part in (
            *(*ranks.text_to_image, ranks.nearest_image),
            *(*ranks.image_to_text, ranks.nearest_text),
        )
    ]


@pytest.mark.parametrize("k", [1, 3, 10, 40, 1000])
@pytest.mark.parametrize("height", [7, 1024])
def test_a_loop_in_float64_agrees(k, height, monkeypatch):
    monkeypatch.setattr("eval.metrics.reranking.SLICE", height)
    images, texts, owner = example()
    second = second_score(images, texts)
    seen = []

    def score(pairs):
        seen.append(pairs)
        return second[pairs[:, 0], pairs[:, 1]]

    ranks = rerank(images, texts, owner, k, score)
    assert lists(ranks) == loop(images, texts, owner, second, k)
    (pairs,) = seen
    assert len(pairs) == len(pairs.unique(dim=0)) <= 2 * k * len(texts), "each pair is scored once"
    assert pairs[:, 1].diff().min() >= 0, "sorted by image"
    assert (ranks.text_to_image.optimistic != ranks.text_to_image.pessimistic).any() or k < 3, "ties are among them"


def test_the_same_score_changes_nothing():
    images, texts, owner = example(seed=3)
    ranks = rerank(images, texts, owner, 10, lambda pairs: (images[pairs[:, 1]] * texts[pairs[:, 0]]).sum(1))
    plain = rank_bidirectional(images, texts, owner)
    for new, old in zip(ranks.by_direction().values(), plain.by_direction().values(), strict=True):
        assert torch.equal(new.optimistic, old.optimistic)
    assert torch.equal(ranks.nearest_image, plain.nearest_image)


def test_equal_texts_of_two_images_tie_whatever_the_score():
    images, texts, owner = example(10, 10, seed=4)
    texts[7] = texts[3]
    ranks = rerank(images, texts, owner, 10, lambda pairs: torch.arange(len(pairs)).double()).image_to_text
    assert (ranks.optimistic != ranks.pessimistic).nonzero().flatten().tolist() == [3, 7]


def test_equal_candidates_at_the_shortlist_s_end_are_taken_in_the_data_s_order():
    images = functional.normalize(torch.tensor([[1.0, 0], [0, 1.0], [0, 1.0], [0, 1.0]]), dim=1)
    texts, owner = torch.tensor([[0.0, 1.0]] * 4), torch.arange(4)
    ranks = rerank(images, texts, owner, 2, lambda pairs: pairs[:, 1].double())
    # the candidates are images 1 and 2, of which 2 scores more; 3 lies behind them, 0 last
    assert ranks.text_to_image.optimistic.tolist() == [3, 1, 0, 2]
    assert ranks.text_to_image.pessimistic.tolist() == [3, 1, 0, 2]
    assert ranks.nearest_image.tolist() == [2, 2, 2, 2]


def test_an_image_without_a_text_is_no_query():
    ranks = rerank(torch.eye(3), torch.eye(3)[:2], torch.tensor([0, 1]), 2, lambda pairs: pairs[:, 0] * 0.0)
    assert ranks.image_to_text.optimistic.tolist() == [0, 0, NEVER]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"images": torch.ones(2, 2)}, "images must be unit vectors"),
        ({"owner": torch.tensor([0, 2])}, r"owner must lie in \[0, 2\), got 0 to 2"),
        ({"owner": torch.tensor([0])}, "owner must be one a text, got 1 for 2"),
        ({"score": lambda pairs: pairs[:, 0] * torch.nan}, "a finite number for each of 4 pairs"),
        ({"score": lambda pairs: torch.zeros(3)}, r"for each of 4 pairs, got \[3\]"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_refusals(change, message):
    given = {"images": torch.eye(2), "texts": torch.eye(2), "owner": torch.arange(2), "k": 2}
    with pytest.raises(ValueError, match=message):
        rerank(**{**given, "score": lambda pairs: pairs[:, 0] * 0.0, **change})
