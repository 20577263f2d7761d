"""Box classification against scikit-learn."""

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from eval import BoxAccuracy, Ties


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def example(boxes=200, classes=12, present=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    names = unit(torch.randn(classes, 16, generator=generator))
    labels = (torch.rand(boxes, generator=generator) ** 2 * present).long()  # uneven, the last classes absent
    regions = unit(names[labels] + 0.5 * torch.randn(boxes, 16, generator=generator))
    image = torch.randint(0, 20, (boxes,), generator=generator)
    return regions, names, labels, image, [f"{i:012d}" for i in range(20)]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(3))
def test_both_averages_equal_scikit_learn(seed):
    regions, names, labels, image, keys = example(seed=seed)
    benchmark = BoxAccuracy()
    for start in range(0, 200, 64):
        rows = (image >= start // 64 * 5) & (image < start // 64 * 5 + 5)
        benchmark.update(regions[rows], names, labels[rows], image[rows], keys)
    numbers = benchmark.compute()
    scores = (regions @ names.T).numpy()
    for k in (1, 5):
        peer = top_k_accuracy_score(labels.numpy(), scores, k=k, labels=range(12))
        assert numbers[f"boxes/top{k}"] == pytest.approx(peer, abs=1e-12)
    peer = balanced_accuracy_score(labels.numpy(), scores.argmax(1))
    assert 0 < numbers["boxes/class_mean_top1"] < 1
    assert numbers["boxes/class_mean_top1"] == pytest.approx(peer, abs=1e-12)
    assert numbers["boxes/class_mean_top1"] != numbers["boxes/top1"]
    assert (numbers["boxes/boxes"], numbers["boxes/ties"]) == (200, 0)


def test_class_mean_top5_by_hand():
    names = torch.eye(3)
    scores = torch.tensor([[0.9, 0.3, 0.1], [0.3, 0.9, 0.1], [0.2, 0.3, 0.9], [0.2, 0.9, 0.3]])
    benchmark = BoxAccuracy(ks=(1, 2))
    benchmark.update(unit(scores), names, torch.tensor([0, 0, 0, 2]), torch.zeros(4, dtype=torch.long), ["a"])
    numbers = benchmark.compute()
    assert (numbers["boxes/top1"], numbers["boxes/top2"]) == (0.25, 0.75)
    assert numbers["boxes/class_mean_top1"] == pytest.approx((1 / 3 + 0) / 2)
    assert numbers["boxes/class_mean_top2"] == pytest.approx((2 / 3 + 1) / 2)


def test_two_classes_of_one_name_tie():
    names = torch.eye(3)[[0, 1, 0]]
    numbers = {}
    for ties in Ties:
        benchmark = BoxAccuracy(ks=(1,), ties=ties)
        benchmark.update(torch.eye(3)[:2], names, torch.tensor([0, 1]), torch.tensor([0, 0]), ["a"])
        numbers[ties] = benchmark.compute()
    assert numbers[Ties.OPTIMISTIC]["boxes/top1"] == 1.0
    assert numbers[Ties.PESSIMISTIC]["boxes/top1"] == 0.5
    assert numbers[Ties.OPTIMISTIC]["boxes/ties"] == 0.5


def test_repeated_samples_count_once():
    regions, names, labels, image, keys = example()
    once, padded = BoxAccuracy(), BoxAccuracy()
    once.update(regions, names, labels, image, keys)
    padded.update(regions, names, labels, image, keys)
    repeated = image == 7
    padded.update(regions[repeated], names, labels[repeated], image[repeated], keys)
    assert padded.compute() == once.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_seen_gives_nothing_and_reset_forgets():
    regions, names, labels, image, keys = example()
    benchmark = BoxAccuracy()
    benchmark.update(regions[:0], names, labels[:0], image[:0], keys)
    assert benchmark.compute() == {}
    benchmark.update(regions, names, labels, image, keys)
    assert benchmark.compute()
    benchmark.reset()
    assert benchmark.compute() == {}


def test_wrong_input_is_named():
    regions, names, labels, image, keys = example()
    benchmark = BoxAccuracy()
    with pytest.raises(ValueError, match="boxes: region_embeddings must be finite"):
        benchmark.update(regions * torch.nan, names, labels, image, keys)
    with pytest.raises(ValueError, match=r"boxes: labels must lie in \[0, 12\), got -1 to 7"):
        benchmark.update(regions, names, labels - 1, image, keys)
    with pytest.raises(ValueError, match="ks must be numbers from 1 on"):
        BoxAccuracy(ks=())
