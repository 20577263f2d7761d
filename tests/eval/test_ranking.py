"""Recall at k against hand-made matrices, loops and torchmetrics."""

import pytest
import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

import eval.metrics.ranking as ranking
from eval import Ties, rank_embeddings, rank_matrix, recall_at_k

# Four queries, eight candidates. Positives: query 0 has {0}, 1 has {2, 5}, 2 has {1}, 3 has {6, 7}.
SCORES = torch.tensor(
    [
        [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],  # right at once
        [0.8, 0.7, 0.1, 0.2, 0.3, 0.6, 0.5, 0.4],  # better positive third, worse one last
        [0.5, 0.5, 0.9, 0.5, 0.1, 0.1, 0.1, 0.1],  # one better; two negatives level with the positive
        [0.2, 0.3, 0.1, 0.0, 0.1, 0.2, 0.6, 0.6],  # its two positives tie with each other: no tie that matters
    ]
)
POSITIVES = torch.zeros(4, 8, dtype=torch.bool)
POSITIVES[[0, 1, 1, 2, 3, 3], [0, 2, 5, 1, 6, 7]] = True


def loop_ranks(similarity, positives):
    """Both ranks of each query by the definition, in float64."""
    optimistic, pessimistic = [], []
    for scores, right in zip(similarity.double().tolist(), positives.tolist(), strict=True):
        best = max((s for s, r in zip(scores, right, strict=True) if r), default=None)
        if best is None:
            optimistic.append(ranking.NEVER)
            pessimistic.append(ranking.NEVER)
            continue
        negatives = [s for s, r in zip(scores, right, strict=True) if not r]
        optimistic.append(sum(s > best for s in negatives))
        pessimistic.append(sum(s >= best for s in negatives))
    return optimistic, pessimistic


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def test_hand_made_matrix():
    ranks = rank_matrix(SCORES, POSITIVES)
    assert ranks.optimistic.tolist() == [0, 2, 1, 0]
    assert ranks.pessimistic.tolist() == [0, 2, 3, 0]
    assert ranks.tied() == 0.25
    assert [recall_at_k(SCORES, POSITIVES, k) for k in (1, 2, 3, 4)] == [0.5, 0.75, 1.0, 1.0]
    assert [recall_at_k(SCORES, POSITIVES, k, Ties.PESSIMISTIC) for k in (1, 2, 3, 4)] == [0.5, 0.5, 0.75, 1.0]


def test_a_model_that_says_the_same_of_everything_shows_in_the_ties():
    same = torch.zeros(4, 8)
    assert recall_at_k(same, POSITIVES, 1) == 1.0
    assert recall_at_k(same, POSITIVES, 1, Ties.PESSIMISTIC) == 0.0
    assert rank_matrix(same, POSITIVES).tied() == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_ranks_equal_the_loop_with_many_ties(seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(0, 6, (9, 13), generator=generator) / 5.0
    positives = torch.rand(9, 13, generator=generator) < 0.2  # some queries have none
    ranks = rank_matrix(similarity, positives)
    assert (ranks.optimistic.tolist(), ranks.pessimistic.tolist()) == loop_ranks(similarity, positives)


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("transpose", [False, True])
def test_recall_equals_torchmetrics_hit_rate(k, transpose):
    similarity = torch.randn(50, 250, generator=torch.Generator().manual_seed(k))
    positives = torch.arange(50)[:, None] == torch.arange(250)[None] // 5
    if transpose:
        similarity, positives = similarity.T, positives.T
    query = torch.arange(len(similarity))[:, None].expand_as(similarity)
    peer = RetrievalHitRate(top_k=k)(similarity.flatten(), positives.flatten(), indexes=query.flatten())
    assert recall_at_k(similarity, positives, k) == pytest.approx(peer.item(), abs=1e-7)


def test_one_of_six_captions_is_enough():
    positives = torch.zeros(2, 12, dtype=torch.bool)
    positives[0, :6] = positives[1, 6:] = True
    similarity = torch.where(torch.arange(12) % 6 == 3, 1.0, 0.0) * positives
    assert recall_at_k(similarity, positives, 1) == 1.0
    query = torch.arange(2)[:, None].expand(2, 12).flatten()
    share = RetrievalRecall(top_k=1)(similarity.flatten(), positives.flatten(), indexes=query)
    assert share == pytest.approx(1 / 6)  # the other recall, which no CLIP paper means


def test_a_query_without_a_positive_is_a_miss_at_any_k():
    positives = POSITIVES.clone()
    positives[0] = False
    assert recall_at_k(SCORES, positives, 8) == 0.75
    assert recall_at_k(SCORES, positives, 100) == 0.75


def test_float64_scores_keep_their_differences():
    similarity = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64)
    assert recall_at_k(similarity, torch.tensor([[True, False]]), 1) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_refused(dtype):
    with pytest.raises(ValueError, match="similarity must be float32 or float64"):
        recall_at_k(SCORES.to(dtype), POSITIVES, 1)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        recall_at_k(SCORES, POSITIVES, 0)
    with pytest.raises(ValueError, match="similarity must hold no NaN, got 1"):
        recall_at_k(SCORES.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan)), POSITIVES, 1)
    with pytest.raises(ValueError, match="at least one query"):
        recall_at_k(SCORES[:0], POSITIVES[:0], 1)
    rows, none = torch.eye(3), torch.zeros(0, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        rank_embeddings(rows, rows, none, chunk=0)
    with pytest.raises(ValueError, match="gallery must be finite"):
        rank_embeddings(rows, rows * torch.nan, none)
    with pytest.raises(ValueError, match=r"positives' rows of gallery must lie in \[0, 3\), got 3 to 3"):
        rank_embeddings(rows, rows, torch.tensor([[0, 3]]))


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_chunks_give_the_ranks_of_the_whole_matrix(chunk, monkeypatch):
    generator = torch.Generator().manual_seed(chunk)
    images, texts = unit(torch.randn(40, 8, generator=generator)), unit(torch.randn(90, 8, generator=generator))
    texts[60:70] = texts[10:20]  # verbatim shared captions: exact ties
    positives = torch.rand(90, 40, generator=generator) < 0.05
    pairs = positives.nonzero()
    pairs = torch.cat([pairs, pairs[:5]])[torch.randperm(len(pairs) + 5, generator=generator)]
    widest = []
    rank = ranking._rank

    def watch(similarity, query, candidate):
        widest.append(len(similarity))
        return rank(similarity, query, candidate)

    monkeypatch.setattr(ranking, "_rank", watch)
    to_image, to_text = (
        rank_embeddings(texts, images, pairs, chunk),
        rank_embeddings(images, texts, pairs.flip(1), chunk),
    )
    assert max(widest) <= chunk
    similarity = texts @ images.T
    for ranks, scores, right in ((to_image, similarity, positives), (to_text, similarity.T, positives.T)):
        assert (ranks.optimistic.tolist(), ranks.pessimistic.tolist()) == loop_ranks(scores, right)


def test_autocast_does_not_reach_the_ranking():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = unit(torch.randn(30, 16, generator=generator)), unit(torch.randn(300, 16, generator=generator))
    pairs = torch.stack([torch.arange(30), torch.arange(30)], dim=1)
    plain = rank_embeddings(queries, gallery, pairs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rank_embeddings(queries, gallery, pairs).pessimistic, plain.pessimistic)
    assert plain.tied() == 0.0


def test_no_queries_and_no_gallery():
    none = torch.zeros(0, 2, dtype=torch.long)
    assert len(rank_embeddings(torch.zeros(0, 3), torch.eye(3), none).optimistic) == 0
    assert rank_embeddings(torch.eye(3), torch.zeros(0, 3), none).recall(5) == 0.0
