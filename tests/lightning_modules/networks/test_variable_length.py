"""Attention without rows: the same features as in rows with a mask, and only where it is offered and gives that."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from datamodules.batch import RaggedTexts
from lightning_modules.networks import DualEncoder, EncoderConfig, text_tower, variable_length
from lightning_modules.networks.attention import additive, precision_of

CONFIG = EncoderConfig(
    image_size=16, patch_size=8, image_width=16, image_layers=1, image_heads=2,
    text_width=32, text_layers=3, text_heads=2, embed_dim=16, vocab_size=50, context_length=77,
)  # fmt: skip
LENGTHS = (5, 77, 1, 30, 12)


def library(query, key, value, begins, _, longest, __, *, scale=None, window_size=(-1, -1)):
    """PyTorch's function by its documentation: [T, H, D], each text by itself."""
    assert window_size == (-1, 0)
    assert begins.dtype == torch.int32
    assert int(begins.diff().max()) == longest
    parts = []
    for start, end in pairwise(begins.tolist()):
        part = (x[start:end].transpose(0, 1) for x in (query, key, value))
        parts.append(scaled_dot_product_attention(*part, is_causal=True, scale=scale).transpose(0, 1))
    return torch.cat(parts)


def texts() -> RaggedTexts:
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    tokens = torch.randint(0, 50, (int(offsets[-1]),), generator=torch.Generator().manual_seed(1))
    return RaggedTexts(tokens, offsets, torch.arange(len(LENGTHS)))


def features(encoder: DualEncoder) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    encoder.zero_grad()
    tokens = encoder.encode_text(texts()).tokens
    weight = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2), dtype=tokens.dtype)
    (tokens * weight).sum().backward()
    return tokens.detach(), {n: p.grad.clone() for n, p in encoder.text_tower.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recomputed", [False, True])
def test_the_same_as_rows_with_a_mask(monkeypatch, recomputed):
    torch.manual_seed(0)
    encoder = DualEncoder(CONFIG).double().train()
    encoder.set_grad_checkpointing(recomputed)
    wanted = features(encoder)
    monkeypatch.setattr(text_tower, "offered", lambda *_: True)
    monkeypatch.setattr(variable_length, "_library", lambda: (library, {"window_size": (-1, 0)}))
    monkeypatch.setattr(text_tower, "pack", None)  # it is not called
    torch.testing.assert_close(features(encoder), wanted, rtol=1e-9, atol=1e-12)


def test_the_trial_tells_right_from_wrong(monkeypatch):
    def wrong(*arguments, **settings):
        return 1.1 * library(*arguments, **settings)

    for function in (library, wrong):
        monkeypatch.setattr(variable_length, "_library", lambda found=function: (found, {"window_size": (-1, 0)}))
        assert variable_length._agrees(torch.device("cpu"), torch.float32, 2, 8) is (function is library)


def test_only_a_gpu_in_half_precision_is_asked(monkeypatch):
    monkeypatch.setattr(variable_length, "_works", lambda *_: True)
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert variable_length.offered(gpu, torch.bfloat16, 8, 64)
    assert not variable_length.offered(cpu, torch.bfloat16, 8, 64)
    assert not variable_length.offered(gpu, torch.float32, 8, 64)
    assert not variable_length.offered(gpu, torch.bfloat16, 8, 60)


def test_no_layer_keeps_a_mask_of_its_own():
    encoder = DualEncoder(CONFIG).train()
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 4 and tensor.shape[1] == 1 and tensor.shape[2] == tensor.shape[3] == 80:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        encoder.encode_text(texts()).tokens.sum()
    assert len(kept) == 1  # for three layers


def test_a_mask_has_the_precision_of_the_attention():
    weights = torch.zeros(2, 2)
    assert precision_of(weights) == torch.float32
    assert precision_of(weights.bfloat16()) == torch.float32  # where bf16 comes on a CPU, attention runs in fp32
    assert precision_of(weights.double()) == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert precision_of(weights) == torch.float32
    mask = torch.tensor([[True, False], [True, True]])
    assert additive(mask, torch.float64).tolist() == [[0, -torch.inf], [0, 0]]
