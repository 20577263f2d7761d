"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import jaxtyping
import pytest
import torch

from tests.helpers import shape_checker

shape_checker.install()

from tests.helpers.ranks import prepare_server

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # test files run side by side, one process a core
prepare_server()
gc.disable()  # until all tests are imported: nothing of them is garbage


def pytest_xdist_auto_num_workers() -> int:
    """Three processes on two cores: many tests wait for others, or for a clock."""
    return min((os.cpu_count() or 1) * 3 // 2, 16)


def pytest_collection_finish() -> None:
    """What is imported now stays: the garbage collector need not look at it again after each test."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Extensions complain of objects that are left at the end."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; tests that need it skip where it is missing."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the reference data folder ../shared (real photographs and captions)")
    return folder


@pytest.fixture(scope="session")
def nltk_data(request: pytest.FixtureRequest) -> None:
    """NLTK's own data where it is installed, else the reference folder's; skips where neither is there."""
    import nltk  # takes seconds, which only the tests that ask for this fixture should pay

    from datamodules.granularity.nltk_data import missing_nltk_data

    if missing_nltk_data():
        folder = str(request.getfixturevalue("shared") / "nltk_data")
        nltk.data.path.insert(0, folder)
        os.environ["NLTK_DATA"] = folder  # for the processes that tests start
    if missing_nltk_data():
        pytest.skip("needs NLTK's data: python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng")


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let wrong tensors through to the product's own checks, for tests of their messages."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
