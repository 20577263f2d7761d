"""The hub is looked at once: what is taken from it, and one line, soon, where it cannot be reached."""

from __future__ import annotations

import json
import socket
import time
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import CLIPModel

from lightning_modules.networks import DualEncoder
from lightning_modules.networks.weights import hub

NAME = "openai/clip-vit-base-patch16"


def holds(monkeypatch, folder) -> list[str]:
    """The hub has the files of ``folder``; what is downloaded from it."""
    asked: list[str] = []

    def download(repository, name):
        assert repository == NAME
        asked.append(name)
        return str(folder / name)

    def info(self, repository, timeout):
        assert timeout <= 10
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file.name) for file in folder.iterdir()])

    monkeypatch.setattr(hub.HfApi, "model_info", info)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    return asked


@pytest.fixture
def agrees(encoder):
    """Check that another DualEncoder has the encoder's weights."""

    def check(other):
        torch.testing.assert_close(other.state_dict(), encoder.state_dict())

    return check


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """A hub at a port where nobody listens, and an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_one_weights_file_and_its_config_are_downloaded(encoder, agrees, tmp_path, monkeypatch):
    encoder.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    asked = holds(monkeypatch, tmp_path)
    agrees(DualEncoder.from_pretrained(NAME))
    assert sorted(asked) == sorted(file.name for file in tmp_path.iterdir() if file.name != "pytorch_model.bin")
    assert {"config.json", "model.safetensors", "tokenizer.json"} < set(asked)


def test_weights_in_several_files_are_downloaded_and_joined(encoder, agrees, tmp_path, monkeypatch):
    """As transformers splits large ones; the same from a folder."""
    encoder.save_pretrained(tmp_path / "whole")
    CLIPModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "parts", max_shard_size="200KB")
    parts = sorted(file.name for file in (tmp_path / "parts").glob("*.safetensors"))
    assert len(parts) > 2
    agrees(DualEncoder.from_pretrained(tmp_path / "parts"))
    asked = holds(monkeypatch, tmp_path / "parts")
    agrees(DualEncoder.from_pretrained(NAME))
    assert sorted(asked) == sorted(["config.json", "model.safetensors.index.json", *parts])
    (tmp_path / "parts" / parts[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"index\.json names files that are missing beside it: {parts[1]}"):
        DualEncoder.from_pretrained(tmp_path / "parts")


def test_pytorch_files_in_parts_are_downloaded_and_joined(encoder, agrees, tmp_path, monkeypatch):
    """As older versions of transformers split them."""
    encoder.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for part, own in parts.items():
        torch.save({name: state[name] for name in own}, tmp_path / part)
    index = {"weight_map": {name: part for part, own in parts.items() for name in own}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    agrees(DualEncoder.from_pretrained(tmp_path))
    asked = holds(monkeypatch, tmp_path)
    agrees(DualEncoder.from_pretrained(NAME))
    assert {"pytorch_model.bin.index.json", *parts} < set(asked)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_named(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index\.json is truncated or no index of weights"):
        DualEncoder.from_pretrained(tmp_path)


def test_an_index_names_no_files_elsewhere(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(ValueError, match=r"weight_map must name files beside it, got \.\./a\.safetensors"):
        DualEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ({"pytorch_model.bin", "model.safetensors", "config.json"}, "model.safetensors"),
        ({"pytorch_model.bin", "open_clip_model.safetensors"}, "pytorch_model.bin"),
        ({"model.safetensors", "open_clip_pytorch_model.bin", "open_clip_config.json"}, "open_clip_pytorch_model.bin"),
        ({"pytorch_model.bin", "model.safetensors.index.json"}, "model.safetensors.index.json"),
        ({"config.json"}, None),
    ],
)
def test_which_weights_are_taken(names, taken):
    assert hub.weights_of(names) == taken


def test_a_repository_without_weights(tmp_path, monkeypatch):
    (tmp_path / "config.json").touch()
    holds(monkeypatch, tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{NAME} holds no weights: looked for model\.safetensors"):
        hub.from_hub(NAME)


def test_nobody_listens(unreachable, capfd):
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=rf"{NAME}: the hub cannot be reached \(.*refused.*\), and its cache"):
        hub.from_hub(NAME)
    assert time.perf_counter() - start < 10
    assert "etry" not in capfd.readouterr().err


def test_nobody_answers(unreachable, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "SECONDS", 0.3)
        with pytest.raises(FileNotFoundError, match="the hub cannot be reached"):
            hub.from_hub(NAME)


def test_offline_by_the_hubs_own_switch(unreachable, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=rf"{NAME}: HF_HUB_OFFLINE is set, and its cache .*hub does not hold"):
        hub.from_hub(NAME)


def test_what_the_cache_holds_is_taken(unreachable, encoder, agrees, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(hub.logger, "propagate", True)
    folder = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    encoder.save_pretrained(folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    agrees(DualEncoder.from_pretrained(NAME))
    assert "it is taken from the cache" in caplog.text
