"""The dual encoder: equal to transformers' CLIP, unit norms, sizes that make sense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import CLIPModel

from lightning_modules.networks import DualEncoder, EncoderConfig, vit_b_16, vit_l_14
from lightning_modules.networks.encoder import load_state
from lightning_modules.networks.weights.transformers_clip import LAYOUT, model_config


@pytest.mark.slow
def test_vit_b_16_is_transformers_clip(random_texts, ragged):
    """Same random weights, context 77, QuickGELU: the same class and EOT embeddings."""
    config = replace(vit_b_16(), context_length=77, frozen_positions=0)
    torch.manual_seed(0)
    with torch.no_grad():
        theirs = CLIPModel(model_config(config)).eval()
        for parameter in theirs.parameters():
            if parameter.ndim == 1:  # biases and norms, which start at 0 and 1
                parameter.add_(0.1 * torch.randn_like(parameter))
        with torch.device("meta"):
            ours = DualEncoder(config).eval()
        ours = ours.to_empty(device="cpu")
        load_state(ours, LAYOUT.read(theirs.state_dict(), "transformers' CLIP"))
        text, pixels = random_texts((50,), vocabulary=49408), torch.randn(1, 3, 224, 224)
        expected = theirs(input_ids=text[0][None], pixel_values=pixels)
        images, texts = ours(pixels, ragged(text))
    torch.testing.assert_close(images.image, expected.image_embeds, rtol=0, atol=1e-4)
    torch.testing.assert_close(texts.text, expected.text_embeds, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.logit_scale[0], theirs.logit_scale.exp())


def test_everything_compared_has_unit_norm(encoder, small, random_texts, ragged):
    images, texts = encoder(torch.randn(2, 3, 32, 32), ragged(random_texts((9, 4, 30))))
    assert images.image.shape == (2, 32)
    assert images.patches.shape == images.tokens.shape == (2, 16, 32)
    assert images.dense.shape == (2, 32, 4, 4)
    assert texts.text.shape == (3, 32)
    assert texts.tokens.shape == (43, 32)
    for vectors in (images.image, images.patches, texts.text):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
    torch.testing.assert_close(images.patches * images.tokens.norm(dim=-1, keepdim=True), images.tokens)


def test_every_parameter_gets_a_gradient_from_clip_alone(encoder, random_texts, ragged):
    """DDP waits for all of them."""
    images, texts = encoder(torch.randn(2, 3, 32, 32), ragged(random_texts((9, 60))))
    (encoder.logit_scale * images.image @ texts.text.T).square().sum().backward()
    assert not [name for name, parameter in encoder.named_parameters() if parameter.grad is None]


def test_wrong_pictures_are_named(encoder):
    with pytest.raises(ValueError, match=r"pixels must have shape \[B, 3, 32, 32\], got \[2, 3, 32, 40\]"):
        encoder.encode_image(torch.randn(2, 3, 32, 40))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 7}, "image_size must be a multiple of patch_size = 7, got 64"),
        ({"image_heads": 3}, "image_width must be a multiple of image_heads = 3, got 128"),
        ({"text_heads": 3}, "text_width must be a multiple of text_heads = 3, got 128"),
        ({"text_layers": 0}, "text_layers must be at least 1, got 0"),
        ({"activation": "relu"}, "activation must be one of quick_gelu, gelu, got 'relu'"),
        ({"frozen_positions": 248}, "frozen_positions must be below context_length = 248, got 248"),
        ({"frozen_positions": -1}, "frozen_positions must be at least 0, got -1"),
        ({"init_scale": 0.0}, "init_scale must be positive and finite, got 0.0"),
    ],
)
def test_sizes_that_make_no_sense_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**change)


def test_released_sizes():
    with torch.device("meta"):
        millions = [sum(p.numel() for p in DualEncoder(c()).parameters()) / 1e6 for c in (vit_b_16, vit_l_14)]
    # OpenAI's 149.6 and 427.6 million, and 228 - 77 positions more less 20 frozen ones
    assert millions == pytest.approx([149.6 + 0.512 * 0.151, 427.6 + 0.768 * 0.151], abs=0.1)
