"""HarmoCLIP-style training: its terms put together by hand, the invariants, and the readings of GR."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from datamodules import GrainSampling
from datamodules.batch import Grain
from datamodules.batching.region_sampling import RegionSampling
from lightning_modules import ClipFinetune, CropTarget, HarmoClip, ImageTarget, PhraseTarget
from lightning_modules.methods.data_check import MethodError
from lightning_modules.methods.freezing import FreezeConfig
from lightning_modules.methods.gradient_cache import MemoryConfig
from losses import ClipLoss, LexemeRegionLoss
from tests.helpers.tiny_regions import first_batch, write_regions
from tests.helpers.tiny_run import TINY, assert_caching_changes_nothing


@pytest.fixture
def shards(tmp_path):
    return write_regions(tmp_path)


@pytest.fixture
def batch(shards):
    return first_batch(shards)


def make(**settings):
    torch.manual_seed(0)
    several = {"lexeme": "mean", "lexeme_weight": 1.0}
    return HarmoClip(encoder=TINY, **(several | settings)).double()


def terms(batch, **settings):
    method = make(**settings)
    return method.losses(batch, method.features(batch))


def pooled_by_hand(tokens, box):
    """Mean of bilinear samples of a 2 × 2 grid, as RoIAlign takes them."""
    x0, y0, x1, y1 = (2 * v for v in box)
    ny, nx = max(1, math.ceil(y1 - y0)), max(1, math.ceil(x1 - x0))
    grid, total = tokens.reshape(2, 2, -1), 0
    for i in range(ny):
        for j in range(nx):
            y, x = y0 + (i + 0.5) * (y1 - y0) / ny - 0.5, x0 + (j + 0.5) * (x1 - x0) / nx - 0.5
            y, x = min(max(y, 0.0), 1.0), min(max(x, 0.0), 1.0)
            for row, weight in ((0, 1 - y), (1, y)):
                total = total + weight * ((1 - x) * grid[row, 0] + x * grid[row, 1])
    return normalize(total / (nx * ny), dim=-1)


def test_terms_are_the_specs(batch):
    """Every term from the encoder's features, box by box and word by word."""
    method = make(temperature=9.0, region_losses=[CropTarget(), PhraseTarget(weight=0.5), ImageTarget(power=2.0)])
    features = method.features(batch)
    found = method.losses(batch, features)
    assert set(found) == {"global", "lexeme_region", "region_crop", "region_phrase", "region_image"}
    image, scale = features.images.image, method.encoder.logit_scale
    captions = batch.grains[Grain.CAPTION].index[:, 0]
    torch.testing.assert_close(found["global"], ClipLoss()(image, features.texts.text[captions], scale))

    at = batch.regions.image.tolist()
    boxes = batch.regions.boxes.tolist()
    regions = torch.stack([pooled_by_hand(features.images.tokens[b], box) for b, box in zip(at, boxes, strict=True)])
    lexemes, phrases, lemmas, lexeme_image, links, row = [], [], [], [], [], {}
    offsets = batch.texts.offsets.tolist()
    for region, slot in batch.regions.links.tolist():
        b = at[region]
        if (b, slot) not in row:
            row[b, slot] = len(row)
            start, end = batch.lexemes.span[b, slot].tolist()
            caption = features.texts.tokens[offsets[captions[b]] : offsets[captions[b] + 1]]
            lexemes.append(normalize(caption[start:end].mean(0), dim=-1))
            phrases.append(features.texts.text[batch.grains[Grain.PHRASE].index[b, slot]])
            lemmas.append(int(batch.lexemes.lemma[b, slot]))
            lexeme_image.append(b)
        links.append((region, row[b, slot]))
    nine = torch.tensor([9.0], dtype=torch.float64)
    rest = (torch.tensor(links), nine, torch.tensor(lemmas), batch.regions.image, torch.tensor(lexeme_image))
    loss = LexemeRegionLoss()
    torch.testing.assert_close(found["lexeme_region"], loss(regions, torch.stack(lexemes), *rest))
    torch.testing.assert_close(found["region_phrase"], 0.5 * loss(regions, torch.stack(phrases), *rest))
    crops = method.encoder.encode_image(batch.crops.pixels).image
    distance = 1 - (regions[batch.crops.region] * crops).sum(1)
    torch.testing.assert_close(found["region_crop"], distance.mean())
    torch.testing.assert_close(found["region_image"], ((1 - (regions * image[at]).sum(1)) ** 2).mean())


def test_without_its_terms_it_is_clip(batch):
    method = make(lexeme_weight=0.0, region_losses=[], temperature="shared")
    torch.manual_seed(0)
    clip = ClipFinetune(encoder=TINY).double()
    clip.load_state_dict(method.state_dict())
    gradients = []
    for each in (method, clip):
        found = each.losses(batch, each.features(batch))
        assert set(found) == {"global"}
        found["global"].backward()
        gradients.append({name: p.grad for name, p in each.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lexeme": "last"},
        {"lexeme": "phrase", "region_losses": []},
        {"lexeme_projection": "own"},
        {"same_lemma": "positive", "negatives": 1},
        {"same_lemma": "negative", "temperature": "shared"},
        {"region_losses": [CropTarget(teacher="trained", power=2.0), PhraseTarget(same_lemma="negative")]},
        {"region_losses": [CropTarget(teacher="frozen", student_share=0.7)]},
        {"region_losses": [ImageTarget()]},
    ],
)
def test_every_reading_trains_all_it_has(batch, settings):
    method = make(**settings)
    found = method.losses(batch, method.features(batch))
    assert all(value.isfinite() and value >= 0 for value in found.values())
    torch.stack(list(found.values())).sum().backward()
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert not [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
    assert not [name for name in trained if name.startswith("teacher.")]
    new = {id(p) for module in method.new_modules() for p in module.parameters()}
    assert new == {id(p) for name, p in trained.items() if name.startswith("projection.")}


def test_phrases_are_asked_for_where_a_term_reads_them():
    unread = {"lexeme": "phrase", "lexeme_weight": 0.0, "region_losses": []}
    assert make(**unread).required_grains() == (Grain.CAPTION,)
    assert make(**(unread | {"lexeme_weight": 1.0})).required_grains() == (Grain.CAPTION, Grain.PHRASE)
    assert make(**(unread | {"region_losses": [PhraseTarget()]})).required_grains() == (Grain.CAPTION, Grain.PHRASE)


@pytest.mark.parametrize("settings", [{}, {"region_losses": [PhraseTarget()]}, {"lexeme": "phrase"}])
def test_texts_that_no_term_reads_are_not_encoded(batch, settings):
    method = make(**settings)
    phrases = batch.grains[Grain.PHRASE]
    unread = phrases.index[phrases.valid] if not settings else phrases.index[:0]
    wanted, tokens = [], []
    method.encoder.text_tower.register_forward_hook(lambda _, given, out: tokens.append(len(given[0].tokens)))
    for training in (True, False):
        features = method.train(training).features(batch)
        assert features.texts.text[unread].any().item() is (len(tokens) == 2 and not settings)
        wanted.append(method.losses(batch, features))
    torch.testing.assert_close(wanted[0], wanted[1])
    assert tokens[1] == len(batch.texts.tokens)
    assert (tokens[0] < tokens[1]) is (not settings)


def test_temperatures(batch):
    own, cool, shared = (make(temperature=t) for t in ("own", 7.0, "shared"))
    torch.testing.assert_close(own.region_scale(), own.encoder.logit_scale)
    assert own.region_scale() is not own.encoder.logit_scale
    torch.testing.assert_close(cool.region_scale(), torch.tensor([7.0], dtype=torch.float64))
    assert len(list(shared.parameters())) == len(list(cool.parameters())) - 1
    wanted = own.losses(batch, own.features(batch))["lexeme_region"]
    torch.testing.assert_close(shared.losses(batch, shared.features(batch))["lexeme_region"], wanted)
    assert not cool.losses(batch, cool.features(batch))["lexeme_region"].isclose(wanted, rtol=1e-3)


def test_readings_of_the_lexeme_differ_and_an_own_space_starts_as_the_shared_one(batch):
    mean = terms(batch)["lexeme_region"]
    torch.testing.assert_close(terms(batch, lexeme_projection="own")["lexeme_region"], mean)
    for settings in ({"lexeme": "last"}, {"lexeme": "phrase"}, {"same_lemma": "negative"}, {"negatives": 1}):
        assert not terms(batch, **settings)["lexeme_region"].isclose(mean, rtol=1e-6), settings


def test_region_losses_of_one_kind_are_terms_of_their_own(batch):
    """Each has the value that it has alone, times its weight."""
    kinds = [CropTarget(power=2.0), ImageTarget(), CropTarget(0.25, "trained"), CropTarget(0.5), ImageTarget(0.1, 2.0)]
    found = terms(batch, region_losses=kinds)
    names = ["region_crop", "region_image", "region_crop_2", "region_crop_3", "region_image_2"]
    assert list(found)[2:] == names
    for name, loss in zip(names, kinds, strict=True):
        (alone,) = list(terms(batch, region_losses=[replace(loss, weight=1.0)]).values())[2:]
        torch.testing.assert_close(found[name], loss.weight * alone)


def crop_gradient(batch, teacher):
    """Of the crops' pixels."""
    pixels = batch.crops.pixels.clone().requires_grad_()
    method = make(region_losses=[CropTarget(teacher=teacher)])
    batch = batch._replace(crops=batch.crops._replace(pixels=pixels))
    method.losses(batch, method.features(batch))["region_crop"].backward()
    return pixels.grad


def test_a_frozen_teacher_draws_no_dropout_in_training(batch):
    method = make(region_losses=[CropTarget(teacher="frozen")])
    for encoder in (method.encoder, method.teacher):
        encoder.image_tower.pos_drop = torch.nn.Dropout(0.5)
    for mode in (True, False, True):
        assert method.train(mode) is method
        assert not any(module.training for module in method.teacher.modules())
        assert all(module.training == mode for module in method.encoder.modules())
    first, second = (method._encode_crops(batch, "frozen") for _ in range(2))
    assert torch.equal(first, second)


def test_only_a_trained_teacher_has_gradients(batch):
    assert crop_gradient(batch, "self_detached") is None
    assert crop_gradient(batch, "frozen") is None
    trained = crop_gradient(batch, "trained")
    assert trained is not None
    assert trained.abs().sum() > 0


def test_images_without_regions_train_the_global_term(shards, batch):
    none = first_batch(shards, regions=RegionSampling(crops=1, min_area=1e9))
    assert len(none.regions.boxes) == len(none.crops.pixels) == 0
    assert sum(n for name, n in none.counts.items() if name == "dropped/small box") > 0
    method = make(region_losses=[CropTarget(), PhraseTarget(), ImageTarget()])
    found = method.losses(none, method.features(none))
    assert [float(v.detach()) for name, v in found.items() if name != "global"] == [0.0] * 4
    torch.stack(list(found.values())).sum().backward()
    assert all(p.grad is not None for p in method.parameters())


def test_links_that_repeat_and_padded_slots_change_nothing(batch):
    wanted = terms(batch)
    phrases = batch.grains[Grain.PHRASE]
    wide = [torch.cat([x, torch.zeros_like(x[:, :2])], 1) for x in (*phrases, *batch.lexemes)]
    padded = batch._replace(
        grains=batch.grains | {Grain.PHRASE: type(phrases)(*wide[:2])},
        lexemes=type(batch.lexemes)(*wide[2:]),
        regions=batch.regions._replace(links=batch.regions.links.repeat(2, 1)),
    )
    torch.testing.assert_close(terms(padded), wanted)


def test_boxes_and_lexemes_are_counted_by_image(batch):
    method = make()
    metrics = method.extra_metrics(batch, method.features(batch))
    linked = {tuple(pair) for pair in batch.regions.links.tolist()}
    phrases = {(int(batch.regions.image[box]), slot) for box, slot in linked}
    assert metrics["regions/boxes_per_image"] == pytest.approx(len({box for box, _ in linked}) / len(batch.images))
    assert metrics["regions/lexemes_per_image"] == pytest.approx(len(phrases) / len(batch.images))


def test_lexemes_beyond_the_context_are_dropped_and_counted(shards):
    cut = first_batch(shards, context=8)
    method = HarmoClip(encoder=TINY.__class__(**(vars(TINY) | {"context_length": 8})), lexeme="mean").double()
    features = method.features(cut)
    assert cut.counts["dropped/lexeme"] == 6  # the second phrase of each image
    seen = method.extra_metrics(cut, features)
    assert 0.3 < seen["regions/truncated_lexeme_share"] < 0.7
    span = torch.zeros_like(cut.lexemes.span)
    one = cut._replace(
        regions=cut.regions._replace(links=cut.regions.links[:1]), lexemes=cut.lexemes._replace(span=span)
    )
    assert method.extra_metrics(one, features)["regions/truncated_lexeme_share"] == 1
    whole = method.losses(cut, features)["lexeme_region"]
    assert whole.isfinite()
    assert whole > 0


def test_frozen_text_tower_has_no_gradients_and_no_optimiser(batch):
    method = make(freeze=FreezeConfig(text_tower="all"), lexeme_projection="own")
    torch.stack(list(method.losses(batch, method.features(batch)).values())).sum().backward()
    tower = list(method.encoder.text_tower.parameters())
    assert all(p.grad is None for p in tower)
    assert method.projection is not None
    assert method.projection.weight.grad is not None


def test_gradient_caching_gives_the_same_gradients(batch):
    assert_caching_changes_nothing(lambda: make(region_losses=[CropTarget(teacher="trained")]), batch)


def kept_for_backward(batch, count, chunk):
    """Bytes that the loss of ``count`` crops of each box keeps, besides the crops themselves."""
    crops = batch.crops._replace(
        pixels=batch.crops.pixels.repeat(count, 1, 1, 1), region=batch.crops.region.repeat(count)
    )
    method = make(region_losses=[CropTarget(teacher="trained")], lexeme_weight=0, memory=MemoryConfig(chunk))
    features, kept = method.features(batch), []
    pixels = crops.pixels.untyped_storage().data_ptr()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        method.losses(batch._replace(crops=crops), features)
    return sum(t.nbytes for t in kept if t.untyped_storage().data_ptr() != pixels)


def test_gradient_caching_keeps_no_activations_of_crops(batch):
    """Of a crop some vectors remain: its embedding, its region's, and what the loss keeps of both."""
    crops = len(batch.crops.region)
    by_parts, at_once = (
        (kept_for_backward(batch, 9, chunk) - kept_for_backward(batch, 1, chunk)) / (8 * crops) for chunk in (2, None)
    )
    vector = 8 * TINY.embed_dim
    assert by_parts < 12 * vector
    assert at_once > 10 * by_parts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_weight": -1.0}, "global_weight must be 0 or more, got -1"),
        ({"lexeme_weight": math.nan}, "lexeme_weight must be 0 or more, got nan"),
        ({"lexeme": "head"}, "lexeme must be mean or last or phrase, got 'head'"),
        ({"temperature": "hot"}, "temperature must be own, shared or a number, got 'hot'"),
        ({"temperature": -3.0}, "temperature must lie between 1 and 100: .* got -3"),
        ({"temperature": 0.07}, "temperature must lie between 1 and 100: .* got 0.07"),
        ({"temperature": 300.0}, "temperature must lie between 1 and 100: .* got 300"),
        ({"temperature": math.nan}, "temperature must lie between 1 and 100: .* got nan"),
        ({"same_lemma": "drop"}, "same_lemma must be ignore, positive or negative, got 'drop'"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "sampling", "message"),
    [
        ({}, GrainSampling(phrases=0), "data.sampling.phrases must be 1 or more"),
        ({}, GrainSampling(caption="sampled"), "data.sampling.caption must be whole"),
        ({"region_losses": [CropTarget()]}, GrainSampling(), "data.regions.crops must be 1 or more"),
        ({"lexeme": "phrase", "region_losses": []}, GrainSampling(caption="sampled"), None),
        ({"lexeme_weight": 0.0, "region_losses": [ImageTarget()]}, GrainSampling(phrases=0, caption="sampled"), None),
    ],
)
def test_inputs_that_are_not_sampled_are_asked_for_at_the_start(settings, sampling, message):
    method = make(**settings)
    method.trainer = SimpleNamespace(datamodule=SimpleNamespace(sampling=sampling, regions=RegionSampling()))
    with nullcontext() if message is None else pytest.raises(MethodError, match=message):
        method.on_fit_start()


def test_crops_count_as_images_for_the_arithmetic(batch):
    """A pass with gradients as one image, a pass without as a third."""
    crops = len(batch.crops.region)
    assert crops > 0
    assert make().further_images(batch) == pytest.approx(crops / 3)
    both = [CropTarget(teacher="trained"), CropTarget(teacher="frozen")]
    assert make(region_losses=both).further_images(batch) == pytest.approx(crops * 4 / 3)
    assert make(region_losses=[]).further_images(batch) == 0
