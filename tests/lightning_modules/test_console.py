"""Lines in a log file: at the logged steps, with the loss that TensorBoard has, and none in a terminal."""

from __future__ import annotations

import logging
import re

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.callbacks import ConsoleLogger
from tests.helpers.tiny_run import fit


@pytest.fixture
def lines(caplog, monkeypatch):
    """The lines of the log file, read when called."""
    own = logging.getLogger("grainclip")
    monkeypatch.setattr(own, "propagate", False)
    monkeypatch.setattr(own, "handlers", [caplog.handler])
    caplog.set_level(logging.INFO)
    return lambda: [record.message for record in caplog.records if record.message.startswith("step ")]


def test_a_line_for_each_logged_step_and_validation(tmp_path, lines):
    fit(tmp_path, ConsoleLogger(), epochs=2)
    steps = [line for line in lines() if "validation" not in line]
    found = [re.fullmatch(r"step (\d) of 6, loss (\S+), \S+ images/s, 0:00:\d\d left", line) for line in steps]
    assert [int(one[1]) for one in found] == [1, 2, 3, 4, 5, 6]
    scalars = {event.step: event.value for event in EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")}
    # Lightning counts the batch that a scalar is of from 0
    assert [float(one[2]) for one in found] == pytest.approx([scalars[step] for step in sorted(scalars)], rel=1e-3)
    validations = [line for line in lines() if "validation" in line]
    assert [line.split(",")[0] for line in validations] == ["step 3", "step 6"]
    pattern = r"step \d, validation: caption/text_to_image/R@1 \d+\.\d %, caption/image_to_text/R@1 \d+\.\d %"
    assert all(re.fullmatch(pattern, line) for line in validations)


def test_a_run_that_goes_on_tells_its_own_pace(tmp_path, lines):
    fit(tmp_path, epochs=1)
    fit(tmp_path, ConsoleLogger(), epochs=2)
    assert [line.split(",")[0] for line in lines() if "loss" in line] == ["step 4 of 6", "step 5 of 6", "step 6 of 6"]


def test_a_terminal_has_a_bar_and_no_lines(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(Console, "is_terminal", True)
    fit(tmp_path, ConsoleLogger(), epochs=1)
    assert lines() == []
