"""Images of a run: every kind of them, for every method and logger, on what is there, and training as it would be
without.
"""

from __future__ import annotations

import io
import logging

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules.batch import Grain
from datamodules.sample import Region
from lightning_modules import BetaClip, ClipFinetune, OptimConfig
from lightning_modules.boards.snapshot import differing, first_samples, looking
from lightning_modules.callbacks import SampleImages
from lightning_modules.callbacks import images as module
from tests.helpers.tiny import make_sample, write_tar
from tests.helpers.tiny_methods import METHODS, method_data
from tests.helpers.tiny_run import TINY, data, fit

ONE_BY_ONE = ("attention", "boxes", "similarity within an image")
TAGS = {
    *(f"{kind}/sample {number}" for kind in ONE_BY_ONE for number in (1, 2)),
    "similarity of all/block matrix", "gallery/text to image", "gallery/image to text", "embeddings/plane",
    "targets/sweep",
}  # fmt: skip


def events(folder):
    return EventAccumulator(str(folder), {"images": 0}).Reload()


@pytest.mark.slow
def test_all_kinds_at_their_steps_and_training_goes_on(tmp_path):
    trainer = fit(tmp_path / "with", SampleImages(every_n_steps=2, samples=2), epochs=1)
    found = events(tmp_path / "with")
    assert set(found.Tags()["images"]) == TAGS
    for tag in TAGS:
        assert [event.step for event in found.Images(tag)] == [0, 2, 3]  # three steps to a validation
        for event in found.Images(tag):
            with Image.open(io.BytesIO(event.encoded_image_string)) as picture:
                picture.load()
                assert min(picture.size) > 150
                assert len(picture.convert("RGB").getcolors(1 << 24)) > 5
    plain = fit(tmp_path / "without", epochs=1)
    for one, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)  # looking changes nothing
    (table,) = (tmp_path / "with").glob("**/metadata.tsv")
    head, *rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    assert head == ["modality", "grain", "text or key"]
    assert {tuple(row[:2]) for row in rows} == {
        ("image", "image"), ("text", "caption"), ("text", "sentence"), ("text", "phrase")
    }  # fmt: skip
    assert (tmp_path / "with" / "projector_config.pbtxt").is_file()
    assert make_sample(0).caption in {row[2] for row in rows}  # in its own case


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_images_from_its_start_to_its_end(tmp_path, name, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("grainclip"), "handlers", [caplog.handler])
    seed_everything(3)
    trainer = short_trainer(TensorBoardLogger(tmp_path, "", ""), SampleImages(samples=1), max_epochs=1)
    trainer.fit(METHODS[name](), method_data(tmp_path))
    assert "failed" not in caplog.text
    found = events(tmp_path)
    absent = set() if name.startswith(("beta", "grain")) else {"targets/sweep"}
    kinds = {tag for tag in TAGS if not tag.endswith("2")} - absent
    assert set(found.Tags()["images"]) == kinds
    for tag in found.Tags()["images"]:
        assert [event.step for event in found.Images(tag)] == [0, 2]
    assert list(tmp_path.glob("**/metadata.tsv"))


def short_trainer(loggers, *callbacks, **settings):
    return Trainer(
        accelerator="cpu", devices=1, logger=loggers, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, callbacks=list(callbacks),
        **settings,
    )  # fmt: skip


class LikeWandb(Logger):
    """Takes images as Lightning's ``WandbLogger`` does."""

    name, version = "like wandb", "0"

    def __init__(self):
        self.images = []

    def log_image(self, key, images, step=None, **more):
        assert not more
        self.images += [(key, step, image.mode, image.size) for image in images]

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *more):
        pass


class TakesNone(LikeWandb):
    """Takes numbers only."""

    log_image = None


def test_every_logger_that_can_takes_the_images_and_the_others_are_told_of_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("grainclip"), "handlers", [caplog.handler])
    monkeypatch.setattr(logging.getLogger("grainclip"), "propagate", False)
    caplog.set_level(logging.INFO, logger="grainclip")
    wandb, table = LikeWandb(), CSVLogger(tmp_path, "csv", "")
    trainer = short_trainer([wandb, table, TakesNone()], SampleImages(samples=1), max_steps=2)
    trainer.fit(BetaClip(encoder=TINY), data(tmp_path))
    kinds = {tag for tag in TAGS if not tag.endswith("2")}
    assert {(key, step) for key, step, *_ in wandb.images} == {(tag, step) for tag in kinds for step in (0, 2)}
    assert {mode for *_, mode, _ in wandb.images} == {"RGB"}
    files = {str(file.relative_to(tmp_path / "csv" / "images")) for file in tmp_path.glob("csv/images/**/*.png")}
    assert len(files) == 2 * len(kinds)
    assert "attention/sample_1/step-00000002.png" in files
    assert "similarity_within_an_image/sample_1/step-00000000.png" in files
    with Image.open(tmp_path / "csv" / "images" / "gallery" / "text_to_image" / "step-00000002.png") as image:
        assert image.size in {size for *_, size in wandb.images}
    told = [record.message for record in caplog.records if "cannot show" in record.message]
    assert told == [
        "LikeWandb: no embeddings, it cannot show them",
        "TakesNone: no images and no embeddings, it cannot show them",
    ]


@pytest.mark.slow
def test_a_run_that_goes_on_draws_nothing_twice(tmp_path):
    for epochs in (1, 2):
        fit(tmp_path, SampleImages(samples=1), epochs=epochs)
    assert [event.step for event in events(tmp_path).Images("attention/sample 1")] == [0, 3, 6]


def test_samples_that_are_drawn_are_no_twins(tmp_path):
    run = data(tmp_path)
    first, other = make_sample(0), make_sample(9)
    twin = make_sample(
        0,
        key="twin",
        caption=first.caption.replace("number 0", "number 7"),
        regions=(Region((0.1, 0.1, 0.9, 0.9), None, "x"),),
    )
    boxless = make_sample(20, regions=())
    run.val_shards = [str(write_tar(tmp_path / "twins.tar", [first, twin, boxless, other]))]
    run.setup("fit")
    batch = run.first_val_samples().batch
    assert differing(batch, 1) == [0]
    assert differing(batch, 2) == [0, 3]
    assert differing(batch, 9) == [0, 3, 1]  # one without boxes is not drawn where others have some
    bare = [make_sample(number, regions=()) for number in range(3)]
    run.val_shards = [str(write_tar(tmp_path / "bare.tar", bare))]
    run.setup("fit")
    assert sorted(differing(run.first_val_samples().batch, 9)) == [0, 1, 2]


def test_without_regions_and_phrases_and_with_a_single_step(tmp_path):
    run = data(tmp_path)
    bare = [make_sample(number, phrases=(), regions=(), sentences=()) for number in range(3)]
    run.val_shards = [str(write_tar(tmp_path / "bare.tar", bare))]
    trainer = Trainer(
        max_steps=1, accelerator="cpu", devices=1, logger=TensorBoardLogger(tmp_path, "", ""), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[SampleImages(samples=20)],
    )  # fmt: skip
    trainer.fit(ClipFinetune(encoder=TINY, optim=OptimConfig(lr=1e-2)), run)
    tags = events(tmp_path).Tags()["images"]
    assert {tag.partition("/")[0] for tag in tags} == {
        "attention", "similarity within an image", "similarity of all", "gallery", "embeddings",
    }  # fmt: skip
    assert "attention/sample 3" in tags


@pytest.mark.parametrize("logger", [False, None])
def test_nothing_is_looked_at_where_no_one_takes_it(tmp_path, monkeypatch, logger):
    def look(*_):
        raise AssertionError("looked")

    monkeypatch.setattr(module, "first_samples", look)
    trainer = Trainer(
        max_steps=1, accelerator="cpu", devices=1, logger=logger, default_root_dir=tmp_path,
        fast_dev_run=logger is None, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[SampleImages(every_n_steps=1)],
    )  # fmt: skip
    trainer.fit(ClipFinetune(encoder=TINY), data(tmp_path))


def test_zero_is_no_images_at_all(tmp_path):
    fit(tmp_path, SampleImages(every_n_steps=0), epochs=1)
    assert events(tmp_path).Tags()["images"] == []


def test_a_picture_that_fails_does_not_end_training(tmp_path, monkeypatch, caplog):
    def fails(*_):
        raise OSError("disk full")
        yield

    monkeypatch.setattr(module.images, "attention", fails)
    monkeypatch.setattr(logging.getLogger("grainclip"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("grainclip"), "handlers", [caplog.handler])
    trainer = fit(tmp_path, SampleImages(every_n_steps=1), epochs=1)
    assert trainer.global_step == 3
    assert [record.message for record in caplog.records].count("no more images, this one failed") == 1
    assert "disk full" in caplog.text


def test_a_look_leaves_modes_and_random_numbers_as_they_were(tmp_path):
    run = data(tmp_path)
    run.setup("fit")

    class Holder:
        datamodule = run

    method = BetaClip(encoder=TINY).train()
    method.pooling.eval()
    state = torch.get_rng_state()
    samples = first_samples(Holder())
    with looking(method, samples) as seen:
        assert not method.encoder.training
        caption = int(samples.batch.grains[Grain.CAPTION].index[0, 0])
        assert seen.words(caption) == make_sample(0).caption
        assert seen.pil_image(0).size == (16, 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.encoder.training
    assert not method.pooling.training


def test_the_first_samples_are_read_once_and_forgotten_by_a_new_set_up(tmp_path):
    run = data(tmp_path)
    assert run.first_val_samples() is None
    run.setup("fit")
    first = run.first_val_samples()
    assert run.first_val_samples() is first
    run.val_shards = [str(write_tar(tmp_path / "others.tar", [make_sample(number) for number in range(3)]))]
    run.setup("fit")
    assert len(run.first_val_samples().batch.images) == 3


@pytest.mark.parametrize(("changes", "message"), [
    ({"every_n_steps": -1}, "images.every_n_steps must be at least 0, got -1"),
    ({"samples": 0}, "images.samples must be at least 1, got 0"),
])  # fmt: skip
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        SampleImages(**changes)
