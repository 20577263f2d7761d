"""The number of ranks is invisible: uneven shares, a rank without a sample, samples repeated as padding."""

import pytest
import torch
import torch.distributed as dist

from datamodules.batch import MultipleChoice
from eval import BoxAccuracy, HardNegatives, Retrieval
from eval.metrics.gather import gather_names, gather_rows
from tests.helpers.ranks import run_on_ranks

IMAGES, WIDTH = 11, 6


def measure(batches):
    """All benchmarks over ``batches`` of image numbers; what an image holds depends on its number only."""
    caption, sentence = Retrieval("caption"), Retrieval("sentence")
    questions, boxes = HardNegatives(), BoxAccuracy()
    classes = _unit(torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(99)))
    for batch in batches:
        parts = [_image(number) for number in batch]
        image, caption_text, sentences, ids, regions = (torch.cat(column) for column in zip(*parts, strict=True))
        keys, rows = [f"key {n}" for n in batch], torch.arange(len(batch))
        caption.update(image, caption_text, rows, keys)
        sentence.update(image, sentences, rows.repeat_interleave(3), keys, ids)
        index = torch.stack([rows * 3, rows * 3 + 1, (rows * 3 + 5) % len(sentences)], dim=1)
        valid = torch.tensor([[True, True, False]]).repeat(len(batch), 1)
        level = torch.tensor([n % 2 for n in batch])
        owner = rows.repeat_interleave(2)
        questions.update(
            regions, sentences, MultipleChoice(rows * 2, level, index, valid, ("hard", "easy")), owner, keys
        )
        labels = torch.tensor([(n + j) % 5 for n in batch for j in range(2)])
        boxes.update(regions, classes, labels, owner, keys)
    return {**caption.compute(), **sentence.compute(), **questions.compute(), **boxes.compute()}


def _image(number):
    generator = torch.Generator().manual_seed(number)
    image = _unit(torch.randn(1, WIDTH, generator=generator))
    ids = torch.tensor([10 + 2 * number, 11 + 2 * number, number % 3])  # the third sentence is shared
    shared = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(500 + number % 3))
    sentences = _unit(torch.cat([image + torch.randn(2, WIDTH, generator=generator), shared]))
    return (
        image,
        _unit(image + 0.7 * torch.randn(1, WIDTH, generator=generator)),
        sentences,
        ids,
        _unit(torch.randn(2, WIDTH, generator=generator)),
    )


def _unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def _work(shares):
    rank, ranks = dist.get_rank(), range(dist.get_world_size())
    rows = gather_rows([torch.full((rank, 2), rank)] if rank else [], torch.int64)
    assert rows is not None
    assert rows.tolist() == [[other_rank, other_rank] for other_rank in ranks for _ in range(other_rank)]
    assert gather_rows([], torch.float32) is None
    assert gather_names(["all", f"rank {rank}"]) == ["all", *(f"rank {other_rank}" for other_rank in ranks)]
    with pytest.raises(ValueError, match=r"rows must have one width and dtype on all ranks, got \[\(2"):
        gather_rows([torch.zeros(1, 2 + rank)], torch.float32)
    return measure(shares[rank])


@pytest.fixture(scope="module")
def alone():
    return measure([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]])


def test_one_process_needs_no_process_group(alone):
    assert len(alone) == 2 * 2 * 6 + 2 * 4 + 6
    assert gather_names(["b", "a", "b"]) == ["b", "a"]
    assert gather_rows([], torch.float32) is None


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([[[10, 2, 4], [6, 8, 0]], [[1, 3, 5], [7, 9, 1]]], id="2 ranks, sample 1 twice"),
        pytest.param([[], [[7, 3, 1, 0, 2], [10, 9]], [[4, 5], [6], [8, 8, 0]]], id="3 ranks, rank 0 without a sample"),
    ],
)
def test_ranks_give_the_numbers_of_one(shares, alone):
    assert run_on_ranks(_work, len(shares), shares) == [alone] * len(shares)
