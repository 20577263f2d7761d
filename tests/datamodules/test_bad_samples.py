"""The share of bad samples is judged once, over all workers and ranks, whatever pass, batch or rank they stand in."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from datamodules import GrainSampling, GranularityData, Squash
from datamodules.batch import Skip
from datamodules.reading.bad_samples import DataError, SkipNotes, SkipPolicy, with_last_skip
from tests.helpers.tiny import make_sample, picture, write_tar

BAD = {"jpg": b"no picture"}
MEMBERS = make_sample(0, image=picture(0, 16, 16)).members()


def write(folder: Path, count: int, bad: tuple[int, ...] = ()) -> list[str]:
    """One shard of ``count`` samples, quick to write and to read; those of ``bad`` have no image."""
    samples = (MEMBERS | {"__key__": f"{n:06d}"} | (BAD if n in bad else {}) for n in range(count))
    return [str(write_tar(folder / "train.tar", samples))]


def module(shards, workers=0, batch=50, **settings) -> GranularityData:
    made = GranularityData(
        shards, shards, batch_size=batch, val_batch_size=batch, num_workers=workers, image_size=16, context_length=77,
        sampling=GrainSampling(0, 0), train_transform=Squash(), **settings,
    )  # fmt: skip
    made.setup("fit")
    return made


def read(loader) -> tuple[int, Counter[str]]:
    counts = Counter[str]()
    images = 0
    for batch in loader:
        images += len(batch.keys)
        counts.update(batch.counts)
    return images, counts


def passes(data: GranularityData, count: int) -> Counter[str]:
    """All that is counted in so many passes, as a run goes: the loader is made once, its place moves on."""
    loader, counts = data.train_dataloader(), Counter[str]()
    for epoch in range(count):
        loader.resume_point = lambda epoch=epoch: (epoch * len(loader) * loader.reader.global_batch, 0)
        counts += read(loader)[1]
    return counts


@pytest.mark.parametrize("workers", [0, 2])
def test_one_in_a_thousand_ends_no_run(tmp_path, workers):
    """Limit 1 %: the bad sample is counted in each pass, wherever it stands."""
    shards = write(tmp_path, 500, (77,))
    for seed in range(2):
        data = module(shards, workers, seed=seed, skip=SkipPolicy(0.01, 100))
        assert passes(data, 2)["skipped/image"] == 2


def test_grace(tmp_path):
    """Bad samples among the first ones stop nothing until enough are read; then the rate decides."""
    shards = write(tmp_path, 400, tuple(range(0, 400, 40)))  # 2.5 %
    with pytest.raises(
        DataError, match=r"^\d of (20\d|21\d) samples cannot be used \(image: \d\), more than data\.skip"
    ):
        read(module(shards, batch=10, skip=SkipPolicy(0.01, 200)).train_dataloader())
    assert read(module(shards, batch=10, skip=SkipPolicy(0.05, 200)).train_dataloader())[1]["skipped/image"] >= 10
    limited = module(shards, batch=10, batches_per_epoch=15, skip=SkipPolicy(0.01, 200))
    loader = limited.train_dataloader()
    read(loader)  # 150 samples: not enough
    with pytest.raises(DataError):  # an epoch too short for a verdict adds to the next
        read(loader)


def test_a_small_set_is_judged_whole(tmp_path):
    """30 samples never make the 1000 of the grace: a pass over them is enough."""
    shards = write(tmp_path, 30, (3, 4, 5))
    with pytest.raises(DataError, match=r"of 3\d samples cannot be used"):
        read(module(shards, batch=10).train_dataloader())


@pytest.mark.parametrize(("workers", "at"), [(0, 0), (2, 100), (2, 511)])
def test_one_of_512_validation_samples_ends_no_run(tmp_path, workers, at):
    data = module(write(tmp_path, 512, (at,)), workers, batch=64)
    assert read(data.val_dataloader()) == (511, {"skipped/image": 1})


def test_too_many_end_validation(tmp_path):
    with pytest.raises(DataError, match="8 of 512 samples cannot be used"):
        read(module(write(tmp_path, 512, tuple(range(8))), 2, batch=64).val_dataloader())


def test_as_many_as_are_allowed_end_nothing(tmp_path):
    """Exactly the limit is not above it."""
    data = module(write(tmp_path, 100, (3, 50)), batch=50, skip=SkipPolicy(0.02, 0))
    assert read(data.val_dataloader()) == (98, {"skipped/image": 2})


def test_a_resumed_run_is_judged_by_enough_samples(tmp_path):
    """It goes on ten samples before the end of a pass, and one of them is bad."""
    data = module(write(tmp_path, 500, (77,)), batch=10)
    position = next(p for p in range(500) if data.train_dataloader().reader.schedule.at(p).index == 77)
    loader = data.train_dataloader()
    first = position // 10 * 10
    loader.resume_point = lambda: (first, first // 10)
    assert read(loader)[1]["skipped/image"] == 1


def test_each_reason_is_logged_a_few_times(tmp_path, caplog):
    shards = write(tmp_path, 100, tuple(range(20)))
    with caplog.at_level(logging.WARNING, "grainclip"):
        passes(module(shards, 2, batch=20, skip=SkipPolicy(0.9)), 2)
    lines = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert len(lines) == 3
    assert all(line.startswith(f"skipped (image): {shards[0]}, sample '0000") for line in lines)


def test_lines_fit():
    skip = Skip("image", "a/long/path/to/the/shards/train-000017.tar", "000123", "it is cut " * 30)
    line = with_last_skip("5 of 100 samples cannot be used", skip)
    assert line.startswith("5 of 100 samples cannot be used. The last: train-000017.tar, sample '000123': it is cut ")
    assert len(line) == 200
    assert with_last_skip("nothing", None) == "nothing"


def test_policy_refuses():
    for bad in ({"max_rate": -0.1}, {"max_rate": 1.1}, {"grace": -1}):
        with pytest.raises(ValueError, match=f"data.skip.{next(iter(bad))} must"):
            SkipPolicy(**bad)


def test_notes_are_taken_once():
    notes = SkipNotes()
    notes.add(Skip("a", "s", "k", "m"))
    assert [len(notes.take()), len(notes.take())] == [1, 0]
    assert notes.last is not None
