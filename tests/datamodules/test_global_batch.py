"""The batch size of a rank, the refusal of what cannot be divided, and what is logged."""

from __future__ import annotations

import logging

import pytest

from datamodules.reading.global_batch import GlobalBatch, warn_changed_batch


@pytest.fixture
def logged(caplog, monkeypatch):
    """The lines that were logged."""
    monkeypatch.setattr(logging.getLogger("grainclip"), "propagate", True)
    caplog.set_level(logging.INFO, "grainclip")
    return lambda: [record.getMessage() for record in caplog.records]


def test_per_rank_or_in_total():
    assert GlobalBatch(64, None).of_rank(4) == 64
    assert GlobalBatch(64, 64).of_rank(4) == 16
    assert GlobalBatch(64, 96).of_rank(1) == 96


def test_what_cannot_be_divided_is_refused():
    assert GlobalBatch(7, None).problem(2) is None
    assert GlobalBatch(7, 8).problem(2) is None
    wanted = "data.global_batch_size must be a multiple of the 3 ranks, got 8"
    assert GlobalBatch(7, 8).problem(3) == wanted


def test_a_batch_per_rank_is_not_worth_a_line(logged):
    GlobalBatch(8, None).log(2, 1)
    assert logged() == []


def test_a_total_is_told_by_rank(logged):
    GlobalBatch(5, 24).log(3, 1)
    assert logged() == ["batches of 24 images: 8 on each rank"]


def test_accumulated_batches_are_told_apart_from_larger_ones(logged):
    GlobalBatch(8, None).log(2, 3)
    (line,) = logged()
    assert "gradients of 3 batches make a step, but losses compare the 16 images of one batch, not 48" in line


def test_a_changed_batch_is_told(logged):
    warn_changed_batch(32, 64)
    (line,) = logged()
    assert "in batches of 32 images over all ranks, this run has 64" in line
    assert "--data.global_batch_size 32 goes on as before" in line
