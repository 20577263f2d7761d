"""β-CLIP's module: its terms, weights by grain, and the start from a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from lightning import Trainer

from datamodules import GrainSampling, GranularityData
from datamodules.batch import Grain, RaggedTexts, TextSlots
from datamodules.batching.image_transforms import normalise
from datamodules.batching.tokenizer import SOT
from lightning_modules import BetaClip
from lightning_modules.methods.beta_clip import GRAINS, GrainWeights
from losses.beta_cal_reference import published_bce, published_ce
from tests.helpers.tiny import make_sample, write_tar
from tests.helpers.tiny_run import TINY, data, first_batch
from tests.losses.oracle import Case, oracle_bce, oracle_ce


@pytest.fixture
def batch(tmp_path):
    return first_batch(tmp_path, 8, 8)


def terms(batch, **settings):
    torch.manual_seed(0)
    method = BetaClip(encoder=TINY, **settings)
    with torch.no_grad():
        return method.losses(batch, method.features(batch))


@pytest.mark.parametrize("objective", ["ce", "bce"])
def test_terms_are_the_papers(tmp_path, objective):
    """By loops over all pairs, each term with its own temperature; a text that two images share is no negative."""
    samples = [
        make_sample(n, sentences=(*make_sample(n).sentences, "The light is low."), phrases=(), regions=())
        for n in range(5)
    ]
    samples = [replace(one, caption=" ".join(one.sentences)) for one in samples]
    samples += [make_sample(n) for n in range(5, 8)]
    data = GranularityData(
        [str(write_tar(tmp_path / "a.tar", samples))], batch_size=8, num_workers=0, image_size=16, context_length=77,
        sampling=GrainSampling(3, 2),
    )  # fmt: skip
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    settings = {"normalize_by": "row", "bias": -3.0} if objective == "bce" else {}
    method = BetaClip(objective, beta=0.3, local_weight=0.7, global_weight=1.5, encoder=TINY, **settings).double()
    with torch.no_grad():
        method.pooling.temperature.log_scale.fill_(math.log(5.0))
    features = method.features(batch._replace(images=normalise(batch.images).double()))
    found = method.losses(batch, features)

    grains = [batch.grains[grain] for grain in (Grain.CAPTION, Grain.SENTENCE, Grain.PHRASE)]
    index, valid = (torch.cat([grain[i] for grain in grains], 1) for i in range(2))
    texts, ids = features.texts.text[index], batch.texts.ids[index]
    every = ids[valid].tolist()
    assert len(set(every)) < len(every)  # the repeated sentence
    views = method.pooling(texts, features.images.patches)
    case = Case(views, texts, valid, torch.tensor(5.0, dtype=torch.float64), ids)
    wanted = oracle_ce(case, 0.3) if objective == "ce" else oracle_bce(case, 0.3, -3.0, "row")
    torch.testing.assert_close(found["beta_cal"], 0.7 * wanted, rtol=1e-6, atol=0)
    z = features.images.image @ texts[:, 0].T / 0.07
    by_hand = -(z.log_softmax(1) + z.log_softmax(0)).diagonal().mean() / 2
    torch.testing.assert_close(found["global"], 1.5 * by_hand, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3]), (3, [2]), (0, [])])
def test_extra_metrics_are_computed_at_the_logged_steps_only(every, steps, tmp_path, monkeypatch):
    method, at = BetaClip(encoder=TINY), []
    monkeypatch.setattr(method, "extra_metrics", lambda batch, features: at.append(method.global_step) or {})
    trainer = Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, limit_val_batches=0, log_every_n_steps=every,
    )  # fmt: skip
    trainer.fit(method, data(tmp_path))
    assert at == steps


@pytest.mark.parametrize("objective", ["ce", "bce"])
def test_published_padding_is_one_vector_of_no_text(batch, objective):
    """A lone start token's: the loss is that of the published code, where padded slots hold it."""
    batch = batch._replace(images=batch.images.double())
    phrases = batch.grains[Grain.PHRASE]
    valid = phrases.valid.clone()
    valid[1:, 1:] = False
    batch = batch._replace(grains={**batch.grains, Grain.PHRASE: TextSlots(phrases.index * valid, valid)})
    torch.manual_seed(0)
    method = BetaClip(objective, encoder=TINY, published_numerics=True, global_weight=0).double()
    features = method.features(batch)
    found = method.losses(batch, features)["beta_cal"]

    start = RaggedTexts(torch.tensor([SOT]), torch.tensor([0, 1]), torch.tensor([0]))
    constant = method.encoder.encode_text(start).text[0]
    index, valid = (torch.cat([batch.grains[grain][i] for grain in GRAINS], 1) for i in range(2))
    assert valid.any(0).all()
    assert not valid.all()
    texts = features.texts.text[index]
    texts[~valid] = constant
    views = method.pooling(texts, features.images.patches)
    if objective == "ce":
        expected = published_ce(views, texts, valid, method.pooling.scale, 1.0, 0.5)
    else:
        expected = published_bce(views, texts, valid, method.pooling.scale, 0.5)
    torch.testing.assert_close(found, expected)
    wanted, grads = (torch.autograd.grad(loss, list(method.pooling.parameters())) for loss in (expected, found))
    torch.testing.assert_close(grads, wanted)


def test_the_metrics_by_grain_leave_out_the_rows_of_others_and_padding(batch):
    torch.manual_seed(0)
    method = BetaClip(encoder=TINY)
    phrases = batch.grains[Grain.PHRASE]
    valid = phrases.valid.clone()
    valid[:, -1] = False
    batch = batch._replace(grains={**batch.grains, Grain.PHRASE: phrases._replace(valid=valid)})
    with torch.no_grad():
        features = method.features(batch)
        metrics = method.extra_metrics(batch, features)
        for grain in GRAINS:
            only = GrainWeights(**{each.value: float(each is grain) for each in GRAINS})
            torch.manual_seed(0)
            alone = BetaClip(encoder=TINY, grain_weights=only)
            loss = alone.losses(batch, alone.features(batch))["beta_cal"]
            torch.testing.assert_close(metrics[f"beta_cal_by_grain/{grain.value}"], loss)


def test_without_its_local_term_it_is_clip(batch):
    method = BetaClip(encoder=TINY, local_weight=0)
    assert set(method.losses(batch, method.features(batch))) == {"global"}
    assert not list(method.new_modules())
    assert method.text_pooling() is None
    assert method.required_grains() == (Grain.CAPTION,)
    assert BetaClip(encoder=TINY).required_grains() == GRAINS
    bce = BetaClip("bce", bias=-5.0, encoder=TINY, local_weight=0)
    assert not any(parameter.requires_grad for parameter in bce.beta_cal.parameters())  # DDP would wait for it
    with pytest.raises(ValueError, match="global_weight or local_weight must be above 0, got 0 for both"):
        BetaClip(encoder=TINY, local_weight=0, global_weight=0)


@pytest.mark.parametrize("objective", ["ce", "bce"])
def test_equal_grain_weights_are_no_weights(batch, objective):
    plain = terms(batch, objective=objective)
    for settings in (GrainWeights(1, 1, 1), GrainWeights(3, 3, 3)):
        torch.testing.assert_close(terms(batch, objective=objective, grain_weights=settings), plain)
    changed = terms(batch, objective=objective, grain_weights=GrainWeights(phrase=0.1))
    assert changed["global"] == plain["global"]
    assert changed["beta_cal"] != plain["beta_cal"]


def test_caption_alone_is_beta_cal_over_captions(batch):
    """With weight on captions only, CE's rows are the captions'; the other texts stay in the denominators."""
    caption = terms(batch, grain_weights=GrainWeights(1, 0, 0))["beta_cal"]
    rest = terms(batch, grain_weights=GrainWeights(0, 1, 1))["beta_cal"]
    counts = [batch.grains[g].valid.sum().item() for g in batch.grains]
    whole = terms(batch)["beta_cal"]
    captions, others = 8, sum(counts) - 8
    torch.testing.assert_close((captions * caption + others * rest) / (captions + others), whole)


def test_weights_of_terms(batch):
    plain, weighed = terms(batch), terms(batch, global_weight=0.25, local_weight=3.0)
    torch.testing.assert_close(weighed["global"], plain["global"] / 4)
    torch.testing.assert_close(weighed["beta_cal"], plain["beta_cal"] * 3)


def test_starts_from_a_checkpoint(batch, tmp_path):
    torch.manual_seed(5)
    source = BetaClip(encoder=TINY)
    source.encoder.save_pretrained(tmp_path / "weights")
    started = BetaClip(encoder=TINY, pretrained=str(tmp_path / "weights"))
    for name, tensor in source.encoder.state_dict().items():
        torch.testing.assert_close(started.encoder.state_dict()[name], tensor, msg=name)
    longer = BetaClip(encoder=replace(TINY, context_length=248), pretrained=str(tmp_path / "weights"))
    assert longer.encoder.config.context_length == 248
    with pytest.raises(ValueError, match=r"encoder\.image_size must be 16, the image size of .*, got 32"):
        BetaClip(encoder=replace(TINY, image_size=32), pretrained=str(tmp_path / "weights"))


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_bad_grain_weights(value):
    with pytest.raises(ValueError, match=r"grain_weights\.sentence must be 0 or more"):
        GrainWeights(sentence=value)
