"""With the weights of a small published β-CLIP we get its numbers: features, pooled vectors, losses, gradients."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from lightning_modules.networks import DualEncoder, EncoderConfig, TextConditionedPooling, stretch_positions
from lightning_modules.networks.encoder import load_state
from lightning_modules.networks.weights import beta_clip
from lightning_modules.networks.weights.checkpoint import joined_tables, without_pooling
from lightning_modules.networks.weights.parameter_map import POSITIONS, write
from tests.helpers.golden import GOLDEN

ALPHA, BETA = 1.0, 0.5


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "tiny_beta_clip.safetensors")


@pytest.fixture(scope="module")
def sizes():
    return json.loads((GOLDEN / "index.json").read_text())["tiny_beta_clip"]


@pytest.fixture(scope="module")
def weights(golden):
    """The published state dict: everything stored but the table before the stretch."""
    weights = {name.removeprefix("weights."): t for name, t in golden.items() if name.startswith("weights.")}
    del weights["positional_embedding_77"]
    return weights


@pytest.fixture
def model(weights, sizes):
    config = EncoderConfig(
        image_size=sizes["image"],
        patch_size=sizes["patch"],
        image_width=sizes["width"],
        image_layers=sizes["depth"],
        image_heads=sizes["heads"],
        text_width=sizes["text_width"],
        text_layers=sizes["text_layers"],
        text_heads=sizes["text_heads"],
        embed_dim=sizes["embed_dim"],
        vocab_size=sizes["vocab"],
        context_length=sizes["context"],
        activation=sizes["activation"],
        frozen_positions=20,
    )
    encoder, pooling = DualEncoder(config), TextConditionedPooling(sizes["embed_dim"])
    load_state(encoder, beta_clip.LAYOUT.read(without_pooling(joined_tables(weights)), "the golden model"))
    pooling.load_state_dict(beta_clip.pooling_state(weights, "the golden model"))
    return encoder, pooling


@pytest.fixture
def texts(golden, sizes, ragged):
    """The 11 queries of each image, cut behind their EOT: caption, sentences, phrases."""
    rows = [row for b in range(len(golden["in.text"])) for row in (*golden["in.text"][b], *golden["in.phrases"][b])]
    return ragged([row[: int((row == sizes["eot"]).nonzero()[0]) + 1] for row in rows])


def features(golden, model, texts):
    """Image embedding, queries [B, 11, D] and vectors pooled per query, all of unit norm."""
    encoder, pooling = model
    image, text = encoder(golden["in.image"], texts)
    queries = text.text.view(len(image.image), -1, text.text.shape[-1])
    return image.image, queries, pooling(queries, image.patches)


def clip_loss(image, text, scale):
    logits, target = scale * image @ text.T, torch.arange(len(image))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def beta_cal_loss(pooled, text, scale, objective):
    """β-CAL over all pairs, the published form where nothing is padded."""
    count = pooled.shape[1]
    logits = scale * pooled.flatten(0, 1) @ text.flatten(0, 1).T
    owner = torch.arange(len(logits)) // count
    own = owner[:, None] == owner[None]
    weight = torch.where(torch.eye(len(logits), dtype=torch.bool), ALPHA, BETA)
    if objective == "bce":
        weight = torch.where(own, torch.where(torch.eye(len(logits), dtype=torch.bool), 1.0, BETA), 1.0)
        return (weight * functional.binary_cross_entropy_with_logits(logits, own.float(), reduction="none")).mean()
    target = torch.where(own, weight, 0.0)
    target = target / target.sum(1, keepdim=True)
    both = ((target * side.log_softmax(1)).sum(1).mean() for side in (logits, logits.T))
    return -sum(both) / 2


def test_features(golden, model, texts):
    encoder, _ = model
    image, queries, pooled = features(golden, model, texts)
    tokens = encoder.image_tower(golden["in.image"])
    torch.testing.assert_close(tokens, golden["out.image_tokens"], rtol=0, atol=1e-5)
    torch.testing.assert_close(image, functional.normalize(golden["out.cls"], dim=-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(queries, golden["out.text"], rtol=0, atol=1e-5)
    caption = functional.normalize(golden["out.caption_eot"], dim=-1)
    torch.testing.assert_close(queries[:, 0], caption, rtol=0, atol=1e-5)
    torch.testing.assert_close(pooled, functional.normalize(golden["out.pooled"], dim=-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder.logit_scale[0], golden["out.scale"])
    torch.testing.assert_close(model[1].scale[0], golden["out.scale_pool"])


@pytest.mark.parametrize("objective", ["ce", "bce"])
def test_losses_and_gradients(golden, model, texts, weights, sizes, objective):
    encoder, pooling = model
    image, queries, pooled = features(golden, model, texts)
    whole = clip_loss(image, queries[:, 0], encoder.logit_scale)
    parts = beta_cal_loss(pooled, queries, pooling.scale, objective)
    torch.testing.assert_close(whole.squeeze(), golden[f"out.loss_{objective}_global"], rtol=1e-5, atol=0)
    torch.testing.assert_close(parts.squeeze(), golden[f"out.loss_{objective}_beta_cal"], rtol=1e-5, atol=0)
    (whole + parts).backward()

    layout = beta_clip.links(sizes["depth"], sizes["text_layers"])
    gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    trained = gradients["text_tower.transformer.embeddings.position_embedding.trained"]
    gradients[POSITIONS] = torch.cat([torch.zeros(20, trained.shape[1]), trained])
    ours = write(layout, gradients) | write(
        beta_clip.pooling_links(), {name: parameter.grad for name, parameter in pooling.named_parameters()}
    )
    ours["positional_embedding_res"] = ours.pop("positional_embedding")
    assert ours.keys() == weights.keys() - {"positional_embedding"}
    for name, gradient in ours.items():
        expected = golden[f"grad_{objective}.{name}"]
        # the floor is for the key biases: softmax does not see them, so their gradients are rounding errors about zero
        assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 2e-7, name


def test_stretch(golden):
    """77 positions to 248: the published table."""
    stretched = stretch_positions(golden["weights.positional_embedding_77"], 248)
    torch.testing.assert_close(stretched, golden["weights.positional_embedding_res"], rtol=0, atol=1e-7)
