"""Pictures in TensorBoard: every kind of them, on what is there, and training as it would be without."""

from __future__ import annotations

import io
import logging
from functools import partial

import pytest
import torch
from lightning import Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules import GrainSampling
from lightning_modules import BetaClip, ClipFinetune, HarmoClip, MulClip, MultiPositiveClip, OptimConfig
from lightning_modules.callbacks import Pictures
from lightning_modules.callbacks import pictures as module
from lightning_modules.dashboards.seen import first_samples, looking
from tests.tiny import make_sample, write_tar
from tests.tiny_run import TINY, data, fit

ONE_BY_ONE = ("attention", "boxes", "similarity within a picture")
TAGS = {
    *(f"{kind}/sample {number}" for kind in ONE_BY_ONE for number in (1, 2)),
    "similarity of all/block matrix", "gallery/text to picture", "gallery/picture to text", "embeddings/plane",
    "targets/sweep",
}  # fmt: skip


def events(folder):
    return EventAccumulator(str(folder), {"images": 0}).Reload()


def test_all_kinds_at_their_steps_and_training_goes_on(tmp_path):
    trainer = fit(tmp_path / "with", Pictures(every_n_steps=8, samples=2))
    found = events(tmp_path / "with")
    assert set(found.Tags()["images"]) == TAGS
    for tag in TAGS:
        assert [event.step for event in found.Images(tag)] == [8, 12]
        for event in found.Images(tag):
            with Image.open(io.BytesIO(event.encoded_image_string)) as picture:
                picture.load()
                assert min(picture.size) > 150
                assert len(picture.convert("RGB").getcolors(1 << 24)) > 5
    plain = fit(tmp_path / "without")
    for one, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)  # looking changes nothing
    (table,) = (tmp_path / "with").glob("**/metadata.tsv")
    head, *rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    assert head == ["modality", "grain", "text or key"]
    assert {tuple(row[:2]) for row in rows} == {
        ("picture", "picture"), ("text", "caption"), ("text", "sentence"), ("text", "phrase")
    }  # fmt: skip
    assert (tmp_path / "with" / "projector_config.pbtxt").is_file()


@pytest.mark.parametrize(
    "method", [MultiPositiveClip, MulClip, partial(HarmoClip, region_losses=[])], ids=["multi", "mul", "harmo"]
)
def test_pictures_of_every_method(tmp_path, method):
    """The same but for targets, which only β-CLIP chooses."""
    sampling = GrainSampling(2, 2, summaries=1)
    fit(tmp_path, Pictures(every_n_steps=3, samples=2), epochs=1, method=method, sampling=sampling)
    found = events(tmp_path)
    assert set(found.Tags()["images"]) == TAGS - {"targets/sweep"}
    assert (tmp_path / "projector_config.pbtxt").is_file()


def test_without_regions_and_phrases_and_with_a_single_step(tmp_path):
    run = data(tmp_path)
    bare = [make_sample(number, phrases=(), regions=(), sentences=()) for number in range(8)]
    run.val_shards = [str(write_tar(tmp_path / "bare.tar", bare))]
    from lightning.pytorch.loggers import TensorBoardLogger

    trainer = Trainer(
        max_steps=1, accelerator="cpu", devices=1, logger=TensorBoardLogger(tmp_path, "", ""), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[Pictures(samples=20)],
    )  # fmt: skip
    trainer.fit(ClipFinetune(encoder=TINY, optim=OptimConfig(lr=1e-2)), run)
    tags = events(tmp_path).Tags()["images"]
    assert {tag.partition("/")[0] for tag in tags} == {
        "attention", "similarity within a picture", "similarity of all", "gallery", "embeddings",
    }  # fmt: skip
    assert "attention/sample 8" in tags


@pytest.mark.parametrize("logger", [False, None])
def test_nothing_is_looked_at_where_no_one_takes_it(tmp_path, monkeypatch, logger):
    def look(*_):
        raise AssertionError("looked")

    monkeypatch.setattr(module, "first_samples", look)
    trainer = Trainer(
        max_steps=1, accelerator="cpu", devices=1, logger=logger, default_root_dir=tmp_path,
        fast_dev_run=logger is None, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[Pictures(every_n_steps=1)],
    )  # fmt: skip
    trainer.fit(ClipFinetune(encoder=TINY), data(tmp_path))


def test_a_picture_that_fails_does_not_end_training(tmp_path, monkeypatch, caplog):
    def fails(*_):
        raise OSError("disk full")
        yield

    monkeypatch.setattr(module.pictures, "attention", fails)
    monkeypatch.setattr(logging.getLogger("grainclip"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("grainclip"), "handlers", [caplog.handler])
    trainer = fit(tmp_path, Pictures(every_n_steps=1), epochs=1)
    assert trainer.global_step == 3
    assert [record.message for record in caplog.records].count("no more pictures in TensorBoard, this one failed") == 1
    assert "disk full" in caplog.text


def test_a_look_leaves_modes_and_random_numbers_as_they_were(tmp_path):
    run = data(tmp_path)
    run.setup("fit")

    class Holder:
        datamodule = run

    method = BetaClip(encoder=TINY).train()
    method.pooling.eval()
    state = torch.get_rng_state()
    batch = first_samples(Holder())
    with looking(method, batch) as seen:
        assert not method.encoder.training
        assert seen.picture(0).size == (16, 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.encoder.training
    assert not method.pooling.training


def test_the_first_samples_are_read_once_and_forgotten_by_a_new_set_up(tmp_path):
    run = data(tmp_path)
    assert run.first_val_batch() is None
    run.setup("fit")
    first = run.first_val_batch()
    assert run.first_val_batch() is first
    run.val_shards = [str(write_tar(tmp_path / "others.tar", [make_sample(number) for number in range(3)]))]
    run.setup("fit")
    assert len(run.first_val_batch().images) == 3


@pytest.mark.parametrize(("changes", "message"), [
    ({"every_n_steps": -1}, "pictures.every_n_steps must be at least 0, got -1"),
    ({"samples": 0}, "pictures.samples must be at least 1, got 0"),
])  # fmt: skip
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        Pictures(**changes)
