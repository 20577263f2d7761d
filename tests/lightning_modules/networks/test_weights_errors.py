"""Weights that cannot be read are named: files, parameters, architectures."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.networks import DualEncoder, load_encoder
from lightning_modules.networks.weights.checkpoint import read_checkpoint
from lightning_modules.networks.weights.towers import text_tower


def test_missing_unknown_and_misshapen_parameters_are_named(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    lost = state.pop("text_model.encoder.layers.1.mlp.fc1.bias")
    save_file(state, file)
    with pytest.raises(ValueError, match=r"lacks 1 parameters: text_model\.encoder\.layers\.1\.mlp\.fc1\.bias"):
        DualEncoder.from_pretrained(tmp_path)
    state["text_model.encoder.layers.1.mlp.fc1.bias"] = lost[:5]
    save_file(state, file)
    with pytest.raises(ValueError, match=r"has of another shape 1 parameters: text_tower.*layers\.1\.mlp\.fc1\.bias"):
        DualEncoder.from_pretrained(tmp_path)
    save_file(state | {"text_model.extra": lost.clone()}, file)
    with pytest.raises(ValueError, match=r"has unknown 1 parameters: text_model\.extra"):
        DualEncoder.from_pretrained(tmp_path)


def test_truncated_files_are_named(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    torch.save(encoder.state_dict(), tmp_path / "clip.pt")
    for file in (tmp_path / "model.safetensors", tmp_path / "clip.pt"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(ValueError, match=f"{file.name} is truncated or no weights file"):
            DualEncoder.from_pretrained(file)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a state dict of tensors, got list"):
        DualEncoder.from_pretrained(tmp_path / "list.pt")


def test_other_architectures_are_named(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    for change, message in (
        ({"model_type": "siglip"}, "model_type must be clip, got siglip"),
        (
            {"vision_config": fields["vision_config"] | {"hidden_act": "gelu"}},
            "hidden_act must agree, got gelu and quick_gelu",
        ),
        ({"text_config": fields["text_config"] | {"layer_norm_eps": 1e-6}}, "text_config.layer_norm_eps must be 1e-05"),
        (
            {"text_config": fields["text_config"] | {"intermediate_size": 99}},
            "intermediate_size must be 4 x hidden_size",
        ),
    ):
        file.write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=message):
            DualEncoder.from_pretrained(tmp_path)
    file.write_text(file.read_text()[:50])
    with pytest.raises(ValueError, match=r"config\.json is truncated or no JSON"):
        DualEncoder.from_pretrained(tmp_path)
    save_file({"visual.layer1.0.conv1.weight": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(
        ValueError, match=r"is no CLIP with a vision transformer: .* it has visual\.layer1\.0\.conv1\.weight"
    ):
        DualEncoder.from_pretrained(tmp_path / "resnet.safetensors")


@pytest.mark.parametrize("pixels", [{"image_mean": [0.5, 0.5]}, {"image_std": 0.5}, {"image_mean": ["a", 1, 2]}])
def test_pixels_are_normalised_by_three_numbers(pixels, encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": pixels}))
    (name,) = pixels
    with pytest.raises(ValueError, match=rf"{name} of the image processor must be three numbers, got "):
        DualEncoder.from_pretrained(tmp_path)


def test_other_tokenizers_are_named(encoder, tmp_path):
    """Their ids would be those of other words, and texts would end elsewhere."""
    encoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors: the token embedding must have at least 49408 .* got 97"):
        load_encoder(tmp_path)
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    for end in (2, 49407):
        file.write_text(json.dumps(fields | {"text_config": fields["text_config"] | {"eos_token_id": end}}))
        DualEncoder.from_pretrained(tmp_path)
    file.write_text(json.dumps(fields | {"text_config": fields["text_config"] | {"eos_token_id": 7}}))
    for read in (read_checkpoint, text_tower):
        with pytest.raises(ValueError, match=r"config\.json: text_config\.eos_token_id must be 49407, .* got 7"):
            read(tmp_path / "model.safetensors")


def test_a_run_s_checkpoint_is_told_with_the_command_that_makes_a_model_of_it(encoder, tmp_path):
    file = tmp_path / "best.ckpt"
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    torch.save({"state_dict": state, KEY: {"method": "ClipFinetune"}}, file)
    with pytest.raises(ValueError, match=rf"is a run's checkpoint: `lightning export {file} FOLDER` makes a model"):
        load_encoder(file)


def test_places_without_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no weights: looked for .*model\.safetensors"):
        DualEncoder.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"is no file, no folder, no hub id .* none of the package"):
        DualEncoder.from_pretrained(tmp_path / "nowhere")
