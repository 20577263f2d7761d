"""Runs that could teach nothing stop with a line that says so, on every rank; others go on."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning import Trainer

from datamodules import GrainSampling, GranularityData
from datamodules.batch import Grain, TextSlots
from datamodules.batching.region_sampling import RegionSampling
from lightning_modules import BetaClip, ClipFinetune, CropTarget, HarmoClip, ImageTarget, MulClip, MultiPositiveClip
from lightning_modules.methods.data_check import MethodError
from lightning_modules.methods.gradient_cache import MemoryConfig
from losses import ClipLoss
from tests.helpers.tiny import make_sample, write_tar
from tests.helpers.tiny_run import TINY, first_batch
from tests.lightning_modules.ranked_run import strategy

pytestmark = pytest.mark.filterwarnings("ignore")
SAMPLING = GrainSampling(2, 2, summaries=1)
NO_BOX = {"regions": ()}
BARE = {"sentences": (), "phrases": (), "regions": ()}


def write(folder, count=24, **changes):
    return [str(write_tar(folder / "train-000.tar", (make_sample(number, **changes) for number in range(count))))]


def train(shards, method, ranks=1, batch_size=8, epochs=2, sampling=SAMPLING):
    data = GranularityData(
        shards, batch_size=batch_size // ranks, num_workers=0, image_size=16, context_length=77, sampling=sampling,
        regions=RegionSampling(crops=1),
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", devices=ranks, strategy=strategy("ddp", ranks), logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(method(encoder=TINY), data)
    return trainer.global_step


@pytest.mark.parametrize(
    ("method", "changes", "line"),
    [
        (
            HarmoClip,
            NO_BOX,
            "HarmoClip got none of the boxes with a phrase that it learns from in its",
        ),
        (
            partial(HarmoClip, lexeme_weight=0),
            NO_BOX,
            "none of the crops of boxes .* use shards with boxes",
        ),
        (
            partial(HarmoClip, lexeme_weight=0, region_losses=[ImageTarget()]),
            NO_BOX,
            "got none of the boxes that it learns from .* model.lexeme_weight 0",
        ),
        (
            MulClip,
            BARE,
            "MulClip got none of the s[a-z]+ that it learns from in its first 24 images",
        ),
        (
            BetaClip,
            {"phrases": (), "regions": ()},
            "BetaClip got none of the phrases .*, or ask for none: data.sampling.phrases 0",
        ),
    ],
    ids=["boxes", "crops", "image", "sentences", "phrases"],
)
def test_a_method_that_gets_none_of_what_it_reads(tmp_path, method, changes, line):
    with pytest.raises(MethodError, match=line) as stopped:
        train(write(tmp_path, **changes), method)
    assert len(str(stopped.value)) <= 200


def test_what_is_not_asked_for_is_not_missed(tmp_path):
    shards = write(tmp_path, regions=(), phrases=())
    assert train(shards, BetaClip, sampling=GrainSampling(2, 0)) == 6
    assert train(shards, partial(HarmoClip, lexeme_weight=0, region_losses=[])) == 6
    assert train(shards, ClipFinetune) == 6


@pytest.mark.parametrize(
    ("method", "sampling", "line"),
    [
        (partial(ClipFinetune, grain="summary"), GrainSampling(), "summaries must be 1 where ClipFinetune is"),
        (partial(MultiPositiveClip, [Grain.CAPTION, Grain.SUMMARY]), GrainSampling(), "summaries must be 1 where Mult"),
        (MultiPositiveClip, GrainSampling(sentences=0), "sentences must be 1 or more where MultiPositiveClip is"),
        (partial(MultiPositiveClip, [Grain.PHRASE]), GrainSampling(phrases=0), "phrases must be 1 or more where Multi"),
    ],
)
def test_grains_that_are_not_sampled_are_asked_for_at_the_start(tmp_path, method, sampling, line):
    with pytest.raises(MethodError, match=f"^data.sampling.{line}.*, got 0$"):
        train(write(tmp_path), method, sampling=sampling)


@pytest.mark.parametrize("global_loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("make", [partial(ClipFinetune, "summary"), partial(MultiPositiveClip, [Grain.SUMMARY])])
def test_a_batch_without_the_only_grain_teaches_nothing_and_stops_nothing(tmp_path, make, chunk, global_loss):
    memory = MemoryConfig(grad_cache_chunk=chunk)
    method = make(encoder=TINY, global_loss=global_loss, memory=memory).train()
    batch = first_batch(tmp_path, 8, 8)
    none = torch.zeros(8, 1, dtype=torch.bool)
    slots = TextSlots(torch.zeros(8, 1, dtype=torch.long), none)
    batch = batch._replace(grains={**batch.grains, Grain.SUMMARY: slots})
    (loss,) = method.losses(batch, method.features(batch)).values()
    assert loss == 0
    loss.backward()
    grads = [parameter.grad for parameter in method.encoder.text_tower.parameters() if parameter.grad is not None]
    assert grads
    assert not any(grad.any() for grad in grads)
    captions = batch.grains[Grain.CAPTION]
    some = TextSlots(captions.index, none.logical_not().index_fill(0, torch.tensor([1, 4]), value=False))
    batch = batch._replace(grains={**batch.grains, Grain.SUMMARY: some})
    (loss,) = method.losses(batch, features := method.features(batch)).values()
    keep = torch.tensor([0, 2, 3, 5, 6, 7])
    image, text = features.images.image[keep], features.texts.text[captions.index[keep, 0]]
    if global_loss == "softmax":
        torch.testing.assert_close(loss, ClipLoss()(image, text, method.encoder.logit_scale))


def test_one_image_a_batch(tmp_path, caplog):
    shards = write(tmp_path)
    line = "data.batch_size must be 2 or more: .* the loss was 0 in the first 10 steps"
    with pytest.raises(MethodError, match=line):
        train(shards, ClipFinetune, batch_size=1)
    assert train(shards, BetaClip, batch_size=1, epochs=1) == 24  # whose texts are contrasted with each other


def test_no_weight_at_all(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="a region loss's weight must be above 0, got 0 for all"):
        HarmoClip(encoder=TINY, global_weight=0, lexeme_weight=0, region_losses=[CropTarget(weight=0)])
    monkeypatch.setattr(ClipFinetune, "losses", lambda self, *_: {"none": 0 * self.encoder.logit_scale.sum()})
    with pytest.raises(MethodError, match="ClipFinetune learns nothing: its loss was exactly 0 in the first 3 batches"):
        train(write(tmp_path), ClipFinetune)
