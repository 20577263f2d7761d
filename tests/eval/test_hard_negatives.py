"""Multiple choice about regions, against a loop in float64."""

import pytest
import torch

from datamodules.batch import MultipleChoice
from eval import HardNegatives, Ties

LEVELS = ("hard", "medium", "easy", "trivial")


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def example(seed=0, questions=60, regions=15, texts=40, candidates=11):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(questions, candidates, generator=generator) < 0.6
    valid[:, :2] = True
    choices = MultipleChoice(
        region=torch.randint(0, regions, (questions,), generator=generator),
        level=torch.randint(0, 4, (questions,), generator=generator),
        index=torch.randint(0, texts, (questions, candidates), generator=generator),
        valid=valid,
        levels=LEVELS,
    )
    boxes = unit(torch.randn(regions, 8, generator=generator))
    words = unit(torch.randn(texts, 8, generator=generator))
    image = torch.randint(0, 5, (regions,), generator=generator)
    return boxes, words, choices, image, [f"key {i}" for i in range(5)]


def select(choices, questions):
    region, level, index, valid, levels = choices
    return MultipleChoice(region[questions], level[questions], index[questions], valid[questions], levels)


def one_question(regions, texts, index, valid=None):
    index = torch.tensor([index])
    valid = torch.ones_like(index, dtype=torch.bool) if valid is None else torch.tensor([valid])
    choices = MultipleChoice(torch.tensor([0]), torch.tensor([0]), index, valid, ("hard",))
    return regions, texts, choices, torch.tensor([0]), ["a"]


@pytest.mark.parametrize("ties", list(Ties))
@pytest.mark.parametrize("seed", range(5))
def test_accuracy_equals_the_loop(seed, ties):
    boxes, words, choices, image, keys = example(seed)
    benchmark = HardNegatives(ties=ties)
    benchmark.update(boxes, words, choices, image, keys)
    numbers = benchmark.compute()
    for number, level in enumerate(LEVELS):
        right, tied, chance = [], [], []
        for q in (choices.level == number).nonzero()[:, 0].tolist():
            texts = [t for t, v in zip(choices.index[q].tolist(), choices.valid[q].tolist(), strict=True) if v]
            box = boxes[choices.region[q]].double()
            scores = {t: float(box @ words[t].double()) for t in texts}
            best = max(scores[t] for t in texts[1:])
            right.append(scores[texts[0]] > best or (ties is Ties.OPTIMISTIC and scores[texts[0]] == best))
            tied.append(scores[texts[0]] == best)
            chance.append(1 / len(texts))
        assert numbers[f"hard_negatives/{level}/accuracy"] == pytest.approx(sum(right) / len(right))
        assert numbers[f"hard_negatives/{level}/ties"] == pytest.approx(sum(tied) / len(tied))
        assert numbers[f"hard_negatives/{level}/chance"] == pytest.approx(sum(chance) / len(chance))
        assert numbers[f"hard_negatives/{level}/questions"] == len(right)
    assert sum(numbers[f"hard_negatives/{level}/questions"] for level in LEVELS) == 60


def test_the_right_text_among_the_negatives_is_a_tie_and_a_hit():
    question = one_question(torch.eye(2)[:1], unit(torch.tensor([[1.0, 0.2], [0.1, 1.0]])), [0, 1, 0])
    benchmark, strict = HardNegatives(), HardNegatives(ties=Ties.PESSIMISTIC)
    for metric in (benchmark, strict):
        metric.update(*question)
    assert benchmark.compute()["hard_negatives/hard/accuracy"] == 1.0
    assert benchmark.compute()["hard_negatives/hard/ties"] == 1.0
    assert strict.compute()["hard_negatives/hard/accuracy"] == 0.0


def test_padding_is_inert_and_does_not_count_for_chance():
    texts = unit(torch.tensor([[1.0, 0.2], [0.1, 1.0], [1.0, 0.0]]))  # text 2 would beat the right one
    benchmark = HardNegatives("fg")
    benchmark.update(*one_question(torch.eye(2)[:1], texts, [0, 1, 2, 2], [True, True, False, False]))
    numbers = benchmark.compute()
    assert numbers == {"fg/hard/accuracy": 1.0, "fg/hard/chance": 0.5, "fg/hard/ties": 0.0, "fg/hard/questions": 1.0}


def test_batches_may_name_their_levels_in_any_order():
    boxes, words, choices, image, keys = example()
    whole, split = HardNegatives(), HardNegatives()
    whole.update(boxes, words, choices, image, keys)
    turned = choices._replace(level=3 - choices.level, levels=LEVELS[::-1])
    owner = image[choices.region]
    split.update(boxes, words, select(choices, owner < 2), image, keys)
    split.update(boxes, words, select(turned, owner >= 2), image, keys)
    assert split.compute() == whole.compute()


def test_repeated_samples_count_once():
    boxes, words, choices, image, keys = example()
    once, padded = HardNegatives(), HardNegatives()
    once.update(boxes, words, choices, image, keys)
    padded.update(boxes, words, choices, image, keys)
    padded.update(boxes, words, select(choices, image[choices.region] == 3), image, keys)
    assert padded.compute() == once.compute()


def test_autocast_does_not_reach_the_scores():
    boxes, words, choices, image, keys = example()
    plain, cast = HardNegatives(), HardNegatives()
    plain.update(boxes, words, choices, image, keys)
    with torch.autocast("cpu", torch.bfloat16):
        cast.update(boxes, words, choices, image, keys)
    assert cast.compute() == plain.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_batches_without_questions_and_reset():
    boxes, words, choices, image, keys = example()
    benchmark = HardNegatives()
    benchmark.update(boxes, words, select(choices, torch.zeros(60, dtype=torch.bool)), image, keys)
    benchmark.update(boxes[:0], words, select(choices, torch.zeros(60, dtype=torch.bool)), image[:0], keys)
    assert benchmark.compute() == {}
    benchmark.update(boxes, words, choices, image, keys)
    assert benchmark.compute()
    benchmark.reset()
    assert benchmark.compute() == {}


def test_wrong_input_is_named():
    boxes, words, choices, image, keys = example()
    benchmark = HardNegatives()
    with pytest.raises(ValueError, match="hard_negatives: region_embeddings must be finite"):
        benchmark.update(boxes * torch.nan, words, choices, image, keys)
    with pytest.raises(ValueError, match="hard_negatives: candidate_embeddings must be unit vectors"):
        benchmark.update(boxes, words * 2, choices, image, keys)
    with pytest.raises(ValueError, match=r"valid must hold for candidate 0 .* got \[False, True\]"):
        benchmark.update(*one_question(torch.eye(2)[:1], torch.eye(2), [0, 1], [False, True]))
    with pytest.raises(ValueError, match=r"candidate 0 and another of every question, got \[True, False\]"):
        benchmark.update(*one_question(torch.eye(2)[:1], torch.eye(2), [0, 1], [True, False]))
