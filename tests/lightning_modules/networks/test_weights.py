"""Weights in and out: the real transformers, open_clip and timm read and write them."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModelWithProjection

from datamodules.batching.tokenizer import EOT, VOCAB_SIZE
from lightning_modules.networks import DualEncoder, TextConditionedPooling, stretch_positions
from lightning_modules.networks.encoder import whole_state
from lightning_modules.networks.text_tower import text_config
from lightning_modules.networks.weights import beta_clip, files, openai_clip
from lightning_modules.networks.weights.checkpoint import traceless
from lightning_modules.networks.weights.checkpoint_format import Traceless
from lightning_modules.networks.weights.parameter_map import POSITIONS, write


@pytest.fixture
def small(small):
    """Head width 64, which weights without a config file are read with; long enough to be stretched."""
    return replace(small, image_width=128, image_heads=2, text_width=64, text_heads=1, context_length=77)


@pytest.fixture
def pixels(small):
    return torch.randn(2, 3, small.image_size, small.image_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sequences(random_texts):
    return random_texts((40, 7, 19))


@pytest.fixture
def same_embeddings(encoder, pixels, sequences, ragged):
    """Check that another model, given as functions of pixels and of one text [1, L], embeds like the encoder."""

    def check(encode_image, encode_text, encoder=encoder, end=None):
        ended = sequences if end is None else [functional.pad(tokens[:-1], (0, 1), value=end) for tokens in sequences]
        with torch.no_grad():
            images, texts = encoder(pixels, ragged(ended))
            image = functional.normalize(encode_image(pixels), dim=-1)
            text = functional.normalize(torch.cat([encode_text(sequence[None]) for sequence in ended]), dim=-1)
        torch.testing.assert_close(image, images.image, rtol=0, atol=1e-5)
        torch.testing.assert_close(text, texts.text, rtol=0, atol=1e-5)

    return check


@pytest.fixture
def agrees(same_embeddings, ragged):
    """Check that another DualEncoder embeds like the encoder."""

    def check(other):
        def text(tokens):
            return other.encode_text(ragged([tokens[0]])).text

        same_embeddings(lambda pixels: other.encode_image(pixels).image, text)

    return check


def openai_state(encoder):
    config = encoder.config
    return write(openai_clip.links(config.image_layers, config.text_layers), whole_state(encoder))


def test_transformers_loads_our_folder(encoder, same_embeddings, agrees, tmp_path):
    encoder.save_pretrained(tmp_path)
    theirs = CLIPModel.from_pretrained(tmp_path).eval()
    same_embeddings(
        lambda pixels: theirs.get_image_features(pixel_values=pixels).pooler_output,
        # padded as transformers pads, with EOT: it reads the first one
        lambda tokens: (
            theirs.get_text_features(functional.pad(tokens, (0, 77 - tokens.shape[1]), value=96)).pooler_output
        ),
    )
    assert theirs.logit_scale.item() == encoder.temperature.log_scale.item()
    back = DualEncoder.from_pretrained(tmp_path)
    assert replace(back.config, init_scale=encoder.config.init_scale) == encoder.config
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_texts_end_at_eot_where_tokens_were_added_after_it(small, same_embeddings, tmp_path):
    """transformers reads an exported text at EOT, which is not the last id of such a vocabulary."""
    torch.manual_seed(0)
    encoder = DualEncoder(replace(small, vocab_size=VOCAB_SIZE + 2)).eval()
    encoder.save_pretrained(tmp_path)
    theirs = CLIPModel.from_pretrained(tmp_path).eval()
    same_embeddings(
        lambda pixels: theirs.get_image_features(pixel_values=pixels).pooler_output,
        lambda tokens: theirs.get_text_features(functional.pad(tokens, (0, 2), value=EOT)).pooler_output,
        encoder=encoder,
        end=EOT,
    )


def test_we_load_transformers_folder(encoder, agrees, tmp_path):
    """Also without safetensors, with half precision and with the position_ids that old checkpoints carry."""
    encoder.save_pretrained(tmp_path / "ours")
    CLIPModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    agrees(DualEncoder.from_pretrained(tmp_path / "theirs"))
    state = load_file(tmp_path / "theirs" / "model.safetensors")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(
        {name: t.half() if t.is_floating_point() else t for name, t in state.items()},
        tmp_path / "theirs" / "pytorch_model.bin",
    )
    half = DualEncoder.from_pretrained(tmp_path / "theirs")
    assert half.image_tower.projection.weight.dtype == torch.float32
    torch.testing.assert_close(
        half.image_tower.projection.weight, encoder.image_tower.projection.weight, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.2, 0.1]}, (0.5, 0.4, 0.3), (0.5, 0.2, 0.1)),
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
    ],
)
def test_pixels_are_normalised_as_the_folders_processor_does(settings, mean, std, encoder, tmp_path):
    """Training, evaluation and an export again: an image is the same numbers in all of them."""
    side = encoder.config.image_size
    encoder.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "processor_config.json").unlink()  # which is read before a file of its own
    CLIPImageProcessor(size=side, crop_size=side, **settings).save_pretrained(tmp_path / "theirs")
    ours = DualEncoder.from_pretrained(tmp_path / "theirs")
    assert (ours.config.image_mean, ours.config.image_std) == (ours.image_mean, ours.image_std) == (mean, std)
    assert ours.with_grid(3).image_mean == mean
    ours.save_pretrained(tmp_path / "again")
    image = torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for folder in ("theirs", "again"):
        processor = CLIPImageProcessor.from_pretrained(tmp_path / folder)
        theirs = processor(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ours.input_format.normalise(image[None]), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_halves_the_file(encoder, agrees, dtype, tmp_path):
    encoder.save_pretrained(tmp_path / "whole")
    encoder.save_pretrained(tmp_path / "half", dtype)
    encoder.save_open_clip(tmp_path / "half_open_clip", dtype)
    state = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {dtype}
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 0.51 * (tmp_path / "whole" / "model.safetensors").stat().st_size + 10_000
    for folder in ("half", "half_open_clip"):
        back = DualEncoder.from_pretrained(tmp_path / folder)
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(back.state_dict()[name], tensor.to(dtype).float()), name


def test_a_model_of_the_package_is_found_by_name(encoder, agrees, tmp_path, monkeypatch):
    encoder.save_pretrained(tmp_path / "shipped" / "small-base")
    monkeypatch.setattr(files, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    agrees(DualEncoder.from_pretrained("small-base"))
    with pytest.raises(FileNotFoundError, match=r"smal-base is no file.*\(small-base\).*did you mean small-base"):
        DualEncoder.from_pretrained("smal-base")
    (tmp_path / "small-base").mkdir()  # the user's own goes first
    with pytest.raises(FileNotFoundError, match="small-base holds no weights"):
        DualEncoder.from_pretrained("small-base")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_open_clip_loads_our_folder(small, activation, same_embeddings, tmp_path):
    torch.manual_seed(0)
    encoder = DualEncoder(replace(small, activation=activation, image_heads=4, text_heads=2))
    encoder.save_open_clip(tmp_path)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    same_embeddings(
        theirs.encode_image,
        lambda tokens: theirs.encode_text(functional.pad(tokens, (0, 77 - tokens.shape[1]))),
        encoder=encoder,
    )
    back = DualEncoder.from_pretrained(tmp_path)
    assert replace(back.config, init_scale=encoder.config.init_scale) == encoder.config
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in encoder.state_dict().items())


def test_context_is_stretched_cut_and_frozen(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    table = whole_state(encoder)[POSITIONS]
    long = DualEncoder.from_pretrained(tmp_path, context_length=248)
    assert torch.equal(whole_state(long)[POSITIONS], stretch_positions(table, 248))
    assert (long.config.context_length, long.config.frozen_positions) == (248, 20)
    assert DualEncoder.from_pretrained(tmp_path, context_length=248, frozen_positions=0).config.frozen_positions == 0
    short = DualEncoder.from_pretrained(tmp_path, context_length=50)
    assert torch.equal(whole_state(short)[POSITIONS], table[:50])
    assert short.config.frozen_positions == 0
    long.save_pretrained(tmp_path / "long")
    assert CLIPModel.from_pretrained(tmp_path / "long").config.text_config.max_position_embeddings == 248


def test_long_clip(encoder, agrees, tmp_path):
    """OpenAI's names and two tables of positions, each of which counts in part."""
    state = openai_state(encoder)
    table = state["positional_embedding"]
    state["positional_embedding"] = torch.cat([table[:20], torch.full_like(table[20:], torch.nan)])
    state["positional_embedding_res"] = torch.cat([torch.full_like(table[:20], torch.nan), table[20:]])
    torch.save(state, tmp_path / "longclip.pt")
    agrees(DualEncoder.from_pretrained(tmp_path / "longclip.pt"))


def test_published_beta_clip(encoder, agrees, tmp_path):
    """A trainer's checkpoint: wrapped for DDP, beside its arguments, with the pooling block."""
    config = encoder.config
    pooling = TextConditionedPooling(config.embed_dim)
    state = write(beta_clip.links(config.image_layers, config.text_layers), whole_state(encoder))
    state |= write(beta_clip.pooling_links(), pooling.state_dict())
    state["positional_embedding_res"] = state["positional_embedding"]
    wrapped = {"state_dict": {f"module.{name}": t for name, t in state.items()}, "args": argparse.Namespace(lr=1e-5)}
    torch.save({"epoch": 10, **wrapped}, tmp_path / "checkpoint.pt")
    agrees(DualEncoder.from_pretrained(tmp_path / "checkpoint.pt"))
    loaded = TextConditionedPooling.from_pretrained(tmp_path / "checkpoint.pt")
    assert all(torch.equal(tensor, pooling.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_two_towers_from_two_places(encoder, small, same_embeddings, agrees, tmp_path):
    """Written by the real timm and the real transformers."""
    vit = VisionTransformer(
        img_size=32,
        patch_size=8,
        num_classes=small.embed_dim,
        embed_dim=128,
        depth=3,
        num_heads=2,
        pre_norm=True,
        norm_layer=nn.LayerNorm,
        act_layer="quick_gelu",
    )
    nn.init.normal_(vit.head.weight)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    text = CLIPTextModelWithProjection(text_config(small)).eval()
    text.save_pretrained(tmp_path / "text")
    joined = DualEncoder.from_towers(tmp_path / "model.safetensors", tmp_path / "text")
    same_embeddings(vit, lambda tokens: text(input_ids=tokens).text_embeds, encoder=joined)
    assert joined.logit_scale.item() == pytest.approx(1 / 0.07)

    encoder.save_pretrained(tmp_path / "whole")
    whole = DualEncoder.from_towers(tmp_path, tmp_path / "whole")
    assert torch.equal(whole.temperature.log_scale, encoder.temperature.log_scale)

    nn.init.ones_(vit.head.bias)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"head\.bias must be zero"):
        DualEncoder.from_towers(tmp_path, tmp_path / "text")


def test_an_activation_that_cannot_be_known_is_asked_for(encoder, agrees, tmp_path):
    save_file(openai_state(encoder), tmp_path / "clip.safetensors")
    asked = r"clip\.safetensors does not tell its activation: put the model's open_clip_config\.json beside it, or"
    with pytest.raises(ValueError, match=rf"{asked} read it in Python by .*, one of quick_gelu, gelu"):
        DualEncoder.from_pretrained(tmp_path / "clip.safetensors")
    agrees(DualEncoder.from_pretrained(tmp_path / "clip.safetensors", activation="quick_gelu"))
    encoder.save_open_clip(tmp_path / "exported")
    (tmp_path / "exported" / "open_clip_config.json").rename(tmp_path / "open_clip_config.json")
    agrees(DualEncoder.from_pretrained(tmp_path / "clip.safetensors"))


def test_a_width_that_the_config_leaves_out_is_open_clip_s_default(tmp_path):
    config = {"model_cfg": {"vision_cfg": {"head_width": 96}, "text_cfg": {}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert traceless(tmp_path / "clip.pt", openai_clip.LAYOUT, None) == Traceless("gelu", 8, 8)
