"""A feature cache that finds nothing in the second training pass is told of, once; one that finds something is not."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import pytest
from lightning import Callback

from datamodules import RandomCrop, Squash
from lightning_modules import ClipFinetune
from lightning_modules.methods.freezing import FreezeConfig
from lightning_modules.methods.gradient_cache import MemoryConfig
from tests.helpers.tiny_run import fit

pytestmark = pytest.mark.filterwarnings("ignore")
FREEZE = FreezeConfig(1, feature_cache_gib=1)
CROPS = RandomCrop((0.5, 0.8))


@pytest.fixture
def train(tmp_path, caplog):
    """Train in the test's folder, going on where it stands; the count of warnings and the cache."""

    def run(*callbacks, transform=CROPS, epochs=2, **settings):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "grainclip"):
            run = fit(
                tmp_path, *callbacks, epochs=epochs, method=ClipFinetune, transform=transform, freeze=FREEZE, **settings
            )
        told = caplog.text.count("no image came again with the same pixels")
        return told, run.lightning_module.frozen_features

    return run


@pytest.mark.parametrize("part", [None, 4])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_random_crops_are_told_of_once(train, epochs, part):
    """Validation finds its images again, and gradient caching those of the step: neither is training's."""
    told, cache = train(epochs=epochs, memory=MemoryConfig(part))
    assert told == (epochs > 1)
    assert cache.found > 0 or (epochs == 1 and part is None)


def test_random_crops_find_nothing_without_validation(train):
    told, cache = train(trainer={"limit_val_batches": 0})
    assert (told, cache.found) == (1, 0)


def test_whole_images_are_not_told_of(train):
    assert train(transform=Squash(), epochs=3, trainer={"limit_val_batches": 0})[0] == 0


def test_a_second_pass_that_ends_early_says_nothing(train):
    assert train(trainer={"max_steps": 5, "limit_val_batches": 0})[0] == 0


class Stopped(Exception):
    pass


class Stop(Callback):
    """Ends the run as a crash would, before its third step, after which it saved."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            raise Stopped


@pytest.mark.parametrize("inside", [False, True])
def test_passes_count_from_a_resumed_runs_start(train, inside):
    """The cache is empty then: what the first whole pass does not find says nothing."""
    with pytest.raises(Stopped) if inside else nullcontext():
        train(*([Stop()] if inside else []), epochs=1, transform=Squash())
    told, cache = train(epochs=2, transform=Squash(), trainer={"limit_val_batches": 0})
    assert told == 0
    assert (cache.asked, cache.found) == ((8 + 24, 8) if inside else (24, 0))
