"""All ranks come to one verdict on the share of bad samples."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from datamodules import GrainSampling, Squash
from datamodules.batch import Skip
from datamodules.batching.collate import SamplePreprocessor, empty_batch
from datamodules.batching.tokenizer import Tokenizer
from datamodules.reading.bad_samples import BadSampleRate, DataError, SkipPolicy
from tests.helpers.ranks import run_on_ranks


def batch_of(skips: int, good: int = 9):
    """Only its keys and skips matter."""
    prepare = SamplePreprocessor(16, Squash(), GrainSampling(0, 0), Tokenizer(77), random_texts=False)
    empty = empty_batch(prepare, [Skip("image", "a.tar", "k", "broken")] * skips)
    return empty._replace(keys=["k"] * good)


def verdicts(bad_rank: int, limits: list[float]) -> list[str]:
    """By limit, what ends 60 batches: of one rank every tenth sample is bad."""
    verdicts_of_rank = []
    for limit in limits:
        rate = BadSampleRate(SkipPolicy(limit, 100))
        rate.restart(None)
        try:
            for number in range(1, 61):
                rate.add(batch_of(int(dist.get_rank() == bad_rank)), number, last=number == 60)
            verdicts_of_rank.append("")
        except DataError as error:
            verdicts_of_rank.append(f"{number}: {error}")
    return verdicts_of_rank


@pytest.mark.slow
def test_ranks_come_to_one_verdict():
    """10 % of rank 1's samples are 5 % of all: below a limit of 6 %; above one of 4 %, where both stop at one batch."""
    mine, other = run_on_ranks(verdicts, 2, 1, [0.06, 0.04])
    assert mine == other
    assert mine[0] == ""
    assert mine[1].startswith("50: 50 of 950 samples cannot be used (image: 50), more than data.skip.max_rate 0.04")
