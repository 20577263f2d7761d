"""Ranks in both directions from one product: hand-made ties, torchmetrics as an oracle, slices."""

import pytest
import torch
from torch.nn import functional
from torchmetrics.retrieval import RetrievalHitRate

from eval.metrics.bidirectional_ranking import rank_bidirectional
from eval.metrics.ranking import NEVER, Ties


def scored(matrix):
    """Embeddings of 4 images and 8 texts whose products are ``matrix`` [texts, images]."""
    return torch.eye(4), torch.tensor(matrix, dtype=torch.float32)


OWNER = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
MATRIX = [
    [0.9, 0.1, 0.1, 0.1],  # right
    [0.5, 0.5, 0.1, 0.1],  # tied with image 1
    [0.7, 0.6, 0.8, 0.1],  # third
    [0.1, 0.4, 0.1, 0.1],  # right
    [0.2, 0.2, 0.2, 0.2],  # tied with all
    [0.3, 0.9, 0.8, 0.8],  # second, tied with image 3
    [0.0, 0.0, 0.0, 0.8],  # right
    [0.1, 0.2, 0.3, 0.0],  # last
]


@pytest.mark.parametrize("keep", [0, 1 << 20])
@pytest.mark.parametrize("height", [1, 3, 1024])
def test_four_images_and_eight_texts_by_hand(keep, height, monkeypatch):
    monkeypatch.setattr("eval.metrics.bidirectional_ranking.SLICE", height)
    ranks = rank_bidirectional(*scored(MATRIX), OWNER, keep)
    assert ranks.text_to_image.optimistic.tolist() == [0, 0, 2, 0, 0, 1, 0, 3]
    assert ranks.text_to_image.pessimistic.tolist() == [0, 1, 2, 0, 3, 2, 0, 3]
    # of the best own texts .9, .6, .8, .8 the second is beaten by text 5, the third ties with 2, the last with 5
    assert ranks.image_to_text.optimistic.tolist() == [0, 1, 0, 0]
    assert ranks.image_to_text.pessimistic.tolist() == [0, 1, 1, 1]
    assert ranks.nearest_image.tolist() == [0, 0, 2, 1, 0, 1, 3, 2]
    assert ranks.nearest_text.tolist() == [0, 5, 2, 5]
    assert ranks.text_to_image.recall(1) == 5 / 8
    assert ranks.text_to_image.recall(1, Ties.PESSIMISTIC) == 3 / 8


def example(images, texts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(images), torch.randint(0, images, (texts - images,), generator=generator)]).sort()[
        0
    ]
    image_vectors = functional.normalize(torch.randn(images, 8, generator=generator), dim=1)
    captions = functional.normalize(image_vectors[owner] + torch.randn(texts, 8, generator=generator), dim=1)
    return image_vectors, captions, owner


@pytest.mark.parametrize("k", [1, 5, 10])
def test_torchmetrics_agrees_where_images_have_several_captions(k):
    image_vectors, captions, owner = example(50, 250)
    ranks = rank_bidirectional(image_vectors, captions, owner)
    similarity, right = captions @ image_vectors.T, owner[:, None] == torch.arange(50)
    for direction_ranks, scores, target in (
        (ranks.text_to_image, similarity, right),
        (ranks.image_to_text, similarity.T, right.T),
    ):
        queries = torch.arange(len(scores))[:, None].expand_as(scores).reshape(-1)
        oracle = RetrievalHitRate(top_k=k)
        oracle.update(scores.reshape(-1), target.reshape(-1), indexes=queries)
        assert 0 < direction_ranks.recall(k) <= 1
        assert direction_ranks.recall(k) == pytest.approx(oracle.compute().item())


def test_slices_change_nothing(monkeypatch):
    image_vectors, captions, owner = example(30, 101, seed=4)
    captions[7] = captions[3]
    whole = rank_bidirectional(image_vectors, captions, owner)
    for height, keep in ((10, 0), (10, 1 << 30), (33, 0)):
        monkeypatch.setattr("eval.metrics.bidirectional_ranking.SLICE", height)
        parts = rank_bidirectional(image_vectors, captions, owner, keep)
        for part, expected in zip(parts, whole, strict=True):
            assert all(map(torch.equal, part, expected)) if isinstance(part, tuple) else torch.equal(part, expected)


def test_an_image_without_a_text_is_no_query():
    ranks = rank_bidirectional(torch.eye(3), torch.eye(3)[:2], torch.tensor([0, 1]))
    assert ranks.image_to_text.optimistic.tolist() == [0, 0, NEVER]


@pytest.mark.parametrize(
    ("images", "texts", "owner", "message"),
    [
        (torch.full((2, 2), torch.nan), torch.eye(2), [0, 1], "images must be finite"),
        (torch.eye(2), torch.empty(0, 2), [], "texts must be finite embeddings, at least one"),
        (torch.eye(2), torch.eye(2), [0, 2], r"owner must lie in \[0, 2\), got 0 to 2"),
        (torch.eye(2), torch.eye(2), [0], "owner must be one a text, got 1 for 2"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_refusals(images, texts, owner, message):
    with pytest.raises(ValueError, match=message):
        rank_bidirectional(images, texts, torch.tensor(owner, dtype=torch.long))
