"""SigLIP of both generations: the numbers of transformers' own model, and what would silently change them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from PIL.Image import Resampling
from torch.nn import functional
from transformers import AutoProcessor, PreTrainedTokenizerFast, SiglipModel

from datamodules.batch import RaggedTexts
from datamodules.batching.collate import pack_texts
from datamodules.batching.library_tokenizer import parse
from lightning_modules.networks import SiglipEncoder, build_encoder, load_encoder
from lightning_modules.networks.contract import config_of, plain_config, shown_config
from lightning_modules.networks.encoder import position_table
from lightning_modules.networks.long_context import stretch_positions
from lightning_modules.networks.weights.files import read_tensors
from tests.helpers.small_siglip import KINDS, write_siglip
from tests.helpers.small_tokenizers import GEMMA, TEXTS, gemma, unigram, write_tokenizer

LONG = " ".join(TEXTS[:8])
SAMPLES = ["", "a", "red cube", TEXTS[0], TEXTS[5].upper(), "雪が降る 🧊 İé́", LONG]
POSITIONS = "text_model.embeddings.position_embedding.weight"


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory) -> Path:
    """A checkpoint of each generation."""
    return write_siglip(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def siglip2(tmp_path_factory) -> Path:
    """A checkpoint of SigLIP 2."""
    return write_siglip(tmp_path_factory.mktemp("second"), "siglip2")


def load(source: Path, context_length: int | None = None) -> SiglipEncoder:
    encoder = load_encoder(source, context_length)
    assert isinstance(encoder, SiglipEncoder)
    return encoder.eval()


def rows(folder: Path, texts: list[str], side: str = "right", lower: bool = True) -> torch.Tensor:
    """Token ids as the official pipeline makes them: lower case, cut and filled up to 64 by the folder's tokenizer."""
    names = {name: value for name, value in GEMMA.items() if name.endswith("_token")}
    if (folder / "tokenizer_config.json").read_text().count("</s>"):
        names = {"pad_token": "</s>"}
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=parse((folder / "tokenizer.json").read_text(encoding="utf-8")), padding_side=side, **names
    )
    texts = [text.lower() if lower else text for text in texts]
    return theirs(texts, padding="max_length", truncation=True, max_length=64, return_tensors="pt")["input_ids"]


@torch.no_grad()
def their_text(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = SiglipModel.from_pretrained(folder).eval()
    return functional.normalize(model.get_text_features(input_ids=ids)["pooler_output"], dim=-1)


@torch.no_grad()
def our_text(encoder: SiglipEncoder, texts: list[str]) -> torch.Tensor:
    unique, index = pack_texts(texts, encoder.tokenizer)
    return encoder.encode_text(unique).text[index]


def test_texts_are_transformers(folder):
    encoder = load(folder)
    lengths = {len(encoder.tokenizer(text)) for text in SAMPLES}
    assert {1, 64} < lengths
    assert encoder.tokenizer.length(LONG) > 64
    torch.testing.assert_close(our_text(encoder, SAMPLES), their_text(folder, rows(folder, SAMPLES)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_images_are_transformers(folder):
    pixels = torch.randn(3, 3, 16, 16)
    theirs = SiglipModel.from_pretrained(folder).eval().get_image_features(pixel_values=pixels)["pooler_output"]
    encoder = load(folder)
    torch.testing.assert_close(
        encoder.encode_image(pixels).image, functional.normalize(theirs, dim=-1), rtol=0, atol=1e-5
    )
    assert encoder.image_mean == encoder.image_std == (0.5, 0.5, 0.5)
    assert encoder.input_format.resampling == Resampling(encoder.config.resample)
    assert encoder.resizing == ("squash", encoder.interpolation)
    assert encoder.grid == (2, 2)


@torch.no_grad()
def test_a_patch_s_feature_is_the_head_s_output_for_it_alone(siglip2):
    model, pixels = SiglipModel.from_pretrained(siglip2).eval().vision_model, torch.randn(2, 3, 16, 16)
    hidden = model(pixel_values=pixels).last_hidden_state
    alone = model.head(hidden.reshape(-1, 1, 16)).view(2, 4, 16)
    features = load(siglip2).encode_image(pixels)
    torch.testing.assert_close(features.tokens, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.dense[:, :, 1, 0], alone[:, 2], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_pass_the_same_norm_and_head(tmp_path, side):
    folder = write_siglip(tmp_path, "siglip2", padding_side=side)
    encoder, model = load(folder), SiglipModel.from_pretrained(folder).eval().text_model
    ids = rows(folder, SAMPLES, side)
    tokens = model.head(model(input_ids=ids).last_hidden_state)
    unique, index = pack_texts(SAMPLES, encoder.tokenizer)
    features = encoder.encode_text(unique)
    for row, text in enumerate(index.tolist()):
        first, last = unique.offsets[text : text + 2].tolist()
        places = slice(0, last - first) if side == "right" else slice(64 - (last - first), 64)
        assert torch.equal(ids[row, places], unique.tokens[first:last])
        torch.testing.assert_close(features.tokens[first:last], tokens[row, places], rtol=0, atol=1e-5)


@torch.no_grad()
def test_traps_are_seen_by_these_weights(siglip2):
    """Short rows, padding on the wrong side and upper case give other vectors: ours are none of these."""
    texts = ["a red cube", "A Red CUBE lies here"]
    right, encoder = their_text(siglip2, rows(siglip2, texts)), load(siglip2)
    short = [encoder.tokenizer(text) for text in texts]
    wrong = {
        "not filled up": torch.cat([their_text(siglip2, torch.tensor([ids])) for ids in short]),
        "wrong side": their_text(siglip2, rows(siglip2, texts, "left")),
        "upper case": their_text(siglip2, rows(siglip2, texts, lower=False)),
    }
    ours = our_text(encoder, texts)
    for name, vectors in wrong.items():
        assert (vectors - right)[1].abs().max() > 1e-3, name
        assert (vectors - ours)[1].abs().max() > 1e-3, name
    torch.testing.assert_close(ours, right, rtol=0, atol=1e-5)


def test_scale_and_bias_are_the_checkpoint_s_and_the_scale_is_not_bounded(folder):
    encoder = load(folder)
    assert encoder.logit_scale.item() == pytest.approx(117.9, abs=0.1)
    assert encoder.logit_bias is not None
    assert encoder.logit_bias.item() == pytest.approx(-12.9)
    encoder.temperature.clamp_()
    assert encoder.logit_scale.item() == pytest.approx(117.9, abs=0.1)


def test_a_checkpoint_without_its_bias_is_refused(siglip2, tmp_path):
    model = SiglipModel.from_pretrained(siglip2)
    write_siglip(tmp_path)
    del model.logit_bias
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 parameters: bias\.logit_bias"):
        load_encoder(tmp_path)


def test_longer_texts_by_long_clips_rule(folder):
    encoder = load(folder, 196)
    assert encoder.context_length == 196
    table = read_tensors(folder / "model.safetensors")[POSITIONS]
    positions = position_table(encoder)
    torch.testing.assert_close(positions.weight, stretch_positions(table, 196))
    assert torch.equal(positions.frozen, table[:20])
    assert not any("frozen" in name for name, _ in encoder.named_parameters())
    assert len(encoder.tokenizer(LONG)) == min(encoder.tokenizer.length(LONG), 196) > 64
    assert our_text(encoder, [LONG, "a"]).shape == (2, 16)
    assert load(folder, 64).config == load(folder).config
    with pytest.raises(ValueError, match=rf"^encoder\.context_length must be at least 64, the length of {folder}"):
        load_encoder(folder, 63)


@torch.no_grad()
@pytest.mark.parametrize("context", [None, 100])
def test_a_saved_folder_is_transformers(folder, tmp_path, context):
    """Its processor too: case, punctuation, length and filter are in its files."""
    encoder, pixels = load(folder, context), torch.randn(2, 3, 16, 16)
    encoder.save_pretrained(tmp_path)
    model, processor = SiglipModel.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(text=SAMPLES, padding="max_length", truncation=True, return_tensors="pt")
    assert set(inputs) == {"input_ids"}
    assert inputs["input_ids"].shape[1] == (context or 64)
    theirs = model(**inputs, pixel_values=pixels)
    torch.testing.assert_close(theirs.text_embeds, our_text(encoder, SAMPLES), rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs.image_embeds, encoder.encode_image(pixels).image, rtol=0, atol=1e-5)
    assert (model.logit_scale, model.logit_bias) == (encoder.temperature.log_scale, encoder.bias.logit_bias)
    assert processor.image_processor.resample == encoder.config.resample
    again = load(tmp_path)
    assert again.config == encoder.config
    torch.testing.assert_close(again.state_dict(), encoder.state_dict(), rtol=0, atol=0)


def test_settings_are_plain_and_make_the_same_encoder(folder):
    encoder = load(folder)
    plain = plain_config(encoder.config)
    assert plain["family"] == "SiglipSettings"
    again = build_encoder(config_of(plain))
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(our_text(again.eval(), SAMPLES), our_text(encoder, SAMPLES))
    shown = shown_config(plain)
    assert shown.pop("tokenizer").startswith("sha256 ")
    assert shown.items() < plain.items()
    assert pickle.loads(pickle.dumps(encoder.tokenizer))(LONG) == encoder.tokenizer(LONG)


def test_punctuation_goes_where_the_first_generation_s_tokenizer_leaves_it(tmp_path):
    """The class strips it in Python; a tokenizer.json that does not is made to."""
    write_siglip(tmp_path, "siglip")
    kept = json.loads(unigram())
    kept["normalizer"] = {"type": "Lowercase"}
    write_tokenizer(tmp_path, json.dumps(kept), **KINDS["siglip"][1])
    tokenizer = load(tmp_path).tokenizer
    assert tokenizer("It's a RED, (cube)!") == tokenizer("its a red cube")
    write_tokenizer(tmp_path, gemma(), **GEMMA)
    second = load(write_siglip(tmp_path / "second")).tokenizer
    assert second("a red, cube") == second("A red, CUBE") != second("a red cube")


@torch.no_grad()
def test_larger_images(siglip2):
    encoder = load(siglip2)
    larger = encoder.with_grid(3)
    theirs = SiglipModel.from_pretrained(siglip2).eval()
    pixels = torch.randn(1, 3, 24, 24)
    expected = theirs.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)["pooler_output"]
    torch.testing.assert_close(
        larger.encode_image(pixels).image, functional.normalize(expected, dim=-1), rtol=0, atol=1e-5
    )
    assert (larger.image_size, larger.grid, encoder.image_size) == (24, (3, 3), 16)
    shared = {id(parameter) for parameter in encoder.parameters()}
    own = [name for name, parameter in larger.named_parameters() if id(parameter) not in shared]
    assert own == ["image_tower.transformer.embeddings.position_embedding.weight"]
    with pytest.raises(ValueError, match="side must be at least 1 patch, got 0"):
        encoder.with_grid(0)


def test_activation_checkpointing_changes_nothing(siglip2):
    pixels, texts = torch.randn(2, 3, 16, 16), pack_texts(["a red cube", LONG], load(siglip2).tokenizer)[0]
    gradients = []
    for enable in (False, True):
        encoder = load(siglip2).train()
        encoder.set_grad_checkpointing(enable)
        images, features = encoder(pixels, texts)
        loss = (images.image @ features.text.T).sum() + images.dense.square().sum() + features.tokens.square().sum()
        loss.backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*gradients)
    assert len(gradients[0]) == len(list(encoder.parameters())) - 2  # scale and bias are the loss's


def test_what_is_refused(siglip2, tmp_path):
    encoder = load(siglip2)
    with pytest.raises(ValueError, match="at least one text, got none"):
        encoder.encode_text(
            RaggedTexts(torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long), torch.zeros(0))
        )
    with pytest.raises(ValueError, match="at most context_length = 64 tokens, got 65"):
        encoder.encode_text(RaggedTexts(torch.ones(65, dtype=torch.long), torch.tensor([0, 65]), torch.zeros(1)))
    with pytest.raises(ValueError, match=r"pixels must have shape \[B, 3, 16, 16\], got \[1, 3, 24, 24\]"):
        encoder.encode_image(torch.zeros(1, 3, 24, 24))


FOLDERS = [
    ({"model_type": "siglip2"}, {}, r"config\.json: SigLIP 2 NaFlex \(model_type siglip2\) is not supported"),
    ({"architectures": ["SiglipForImageClassification"]}, {}, "architectures must name SiglipModel, got SiglipFor"),
    ({"vision_config.vision_use_head": False}, {}, "vision_use_head must be true, got false"),
    ({"vision_config.hidden_act": "gelu"}, {}, "hidden_act must agree, got gelu and gelu_pytorch_tanh"),
    ({"text_config.projection_size": 8}, {}, "projection_size must be the image tower's width, 16, got 8"),
    ({"vision_config.image_size": [16, 24]}, {}, "image_size and patch_size must be numbers, for squares"),
    ({"text_config.vocab_size": 100}, {}, r"tokenizer\.json has \d+ tokens, the model's text_config\.vocab_size 100"),
    (
        {},
        {"pad_token": "<fill>"},
        r"tokenizer_config\.json: pad_token must be a token of tokenizer\.json, got '<fill>'",
    ),
]


@pytest.mark.parametrize(("model", "tokenizer", "says"), FOLDERS)
def test_folders_that_are_refused(tmp_path, model, tokenizer, says):
    write_siglip(tmp_path, **tokenizer)
    fields = json.loads((tmp_path / "config.json").read_text())
    for name, value in model.items():
        *part, key = name.split(".")
        (fields[part[0]] if part else fields)[key] = value
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=says) as refused:
        load_encoder(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_folder_without_its_tokenizer_is_refused(tmp_path, name):
    (write_siglip(tmp_path) / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing: a SigLIP needs its tokenizer's files"):
        load_encoder(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(ValueError, match=rf"{name} (is truncated|holds no tokenizer)"):
        load_encoder(tmp_path)
