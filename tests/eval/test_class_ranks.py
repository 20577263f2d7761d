"""Ranks of classes: against a loop with many ties, and scikit-learn."""

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from torch.nn import functional

from eval.metrics.ranking import rank_classes
from eval.protocols.box_classification import LabelledRegions, grade


def test_ranks_equal_the_loop_with_many_ties(monkeypatch):
    monkeypatch.setattr("eval.metrics.ranking.SLICE", 7)
    generator = torch.Generator().manual_seed(0)
    classes = functional.normalize(torch.randint(0, 2, (12, 3), generator=generator) + 0.1, dim=1)  # many are equal
    rows = functional.normalize(torch.randn(40, 3, generator=generator), dim=1)
    label = torch.randint(0, 12, (40,), generator=generator)
    ranks = rank_classes("x", rows, classes, label)
    distinct = {tuple(vector.tolist()): n for n, vector in enumerate(classes)}
    kind = [distinct[tuple(vector.tolist())] for vector in classes]
    for n, right in enumerate(label.tolist()):
        scores = [float(rows[n].double() @ classes[k].double()) for k in kind]
        equal = [c for c in range(12) if kind[c] == kind[right] and c != right]
        assert ranks.better[n] == sum(score > scores[right] for c, score in enumerate(scores) if kind[c] != kind[right])
        assert ranks.equal[n] == len(equal)
        assert ranks.before[n] == sum(c < right for c in equal)
        assert ranks.chosen[n] == scores.index(max(scores))
    assert ranks.equal.any()


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_graded_boxes_equal_scikit_learn():
    generator = torch.Generator().manual_seed(1)
    classes = functional.normalize(torch.randn(12, 8, generator=generator), dim=1)
    label = (torch.rand(300, generator=generator) ** 2 * 9).long()  # uneven, the last classes absent
    rows = functional.normalize(classes[label] + 0.6 * torch.randn(300, 8, generator=generator), dim=1)
    names = [f"class {n}" for n in range(12)]
    regions = LabelledRegions([f"{n % 50}" for n in range(300)], [(0.0, 0.0, 1.0, 1.0)] * 300, label, names)
    numbers, items = grade("x", rows, classes, regions)
    scores = (rows @ classes.T).numpy()
    for k in (1, 5):
        peer = top_k_accuracy_score(label.numpy(), scores, k=k, labels=range(12))
        assert numbers[f"x/top{k}"] == pytest.approx(peer)
        assert sum(items.columns[f"top{k}"]) / 300 == pytest.approx(peer)
    assert numbers["x/class_mean_top1"] == pytest.approx(balanced_accuracy_score(label.numpy(), scores.argmax(1)))
    assert [names.index(name) for name in items.columns["chosen"]] == scores.argmax(1).tolist()
    assert 0 < numbers["x/top1"] < numbers["x/top5"] < 1
