"""Batches larger than memory: the result is that of the whole batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.batch import RaggedTexts
from lightning_modules import BetaClip, ClipFinetune
from lightning_modules.methods import gradient_cache
from lightning_modules.methods.gradient_cache import MemoryConfig, encode_by_parts, split_texts
from tests.helpers.tiny_run import TINY, first_batch


@pytest.fixture
def batch(tmp_path):
    return first_batch(tmp_path, 10, 24)


def gradients(method, batch, seed=0):
    torch.manual_seed(seed)
    loss = sum(method.losses(batch, method.features(batch)).values())
    method.zero_grad()
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in method.named_parameters()}


@pytest.mark.parametrize(
    "make", [ClipFinetune, BetaClip, lambda **kw: BetaClip("bce", normalize_by="row", bias=-5.0, **kw)]
)
@pytest.mark.parametrize("part", [1, 3, 10, 64])
def test_parts_give_the_gradients_of_the_whole_batch(batch, make, part):
    torch.manual_seed(1)
    method = make(encoder=TINY).double()
    batch = batch._replace(images=batch.images.double())
    loss, whole = gradients(method, batch)
    method.memory = MemoryConfig(grad_cache_chunk=part)
    loss_by_parts, by_parts = gradients(method, batch)
    torch.testing.assert_close(loss_by_parts, loss, rtol=1e-12, atol=0)
    for name, gradient in whole.items():
        torch.testing.assert_close(by_parts[name], gradient, rtol=1e-8, atol=1e-12, msg=name)


def test_the_replay_draws_the_same_dropout(batch):
    seen = []
    method = ClipFinetune(encoder=TINY, memory=MemoryConfig(grad_cache_chunk=4))
    dropout = torch.nn.Dropout(0.5)
    dropout.register_forward_hook(lambda module, inputs, output: seen.append(output.detach() == 0))
    method.encoder.image_tower.pos_drop = dropout
    gradients(method.train(), batch)
    first, replayed = seen[:3], seen[3:]
    assert len(replayed) == 3
    assert all(any(mask.equal(other) for other in first) for mask in replayed)
    assert not first[0].equal(first[1])


class Casts(TorchDispatchMode):
    """Counts the casts of each weight to half precision."""

    def __init__(self, weights):
        super().__init__()
        self.places = {weight.data_ptr(): name for name, weight in weights}
        self.counted = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten._to_copy and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.counted[self.places.get(args[0].data_ptr())] += 1
        return func(*args, **(kwargs or {}))


def test_weights_are_cast_once_for_all_parts(batch):
    method = ClipFinetune(encoder=TINY, memory=MemoryConfig(grad_cache_chunk=2))
    found = []
    for backward in (lambda loss: loss.backward(), method.backward):
        with torch.autocast("cpu", torch.bfloat16):
            loss = sum(method.losses(batch, method.features(batch)).values())
        method.zero_grad()
        with Casts(method.named_parameters()) as casts:
            backward(loss)
        gradients = {name: weight.grad.clone() for name, weight in method.named_parameters()}
        found.append((gradients, {name: times for name, times in casts.counted.items() if name is not None}))
    (by_torch, cast_by_part), (ours, cast) = found
    assert len(cast) > 10
    assert cast_by_part.keys() == cast.keys()
    assert set(cast.values()) == {1}
    assert set(cast_by_part.values()) == {5}  # what is avoided: a cast for each part
    for name, gradient in by_torch.items():
        assert torch.equal(ours[name], gradient), name


def test_activations_of_one_part_at_a_time(batch):
    """Autograd keeps far less between forward and backward."""

    def kept(memory):
        method, sizes = ClipFinetune(encoder=replace(TINY, image_layers=6), memory=memory), []

        def count(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            method.losses(batch, method.features(batch))
        return sum(sizes)

    whole = kept(MemoryConfig())
    assert kept(MemoryConfig(grad_cache_chunk=2)) < whole / 5
    assert kept(MemoryConfig(activation_checkpointing=True)) < whole / 2


def test_a_rank_with_fewer_parts_calls_the_towers_as_often_and_adds_no_row(batch, monkeypatch):
    encoder = ClipFinetune(encoder=TINY).double().encoder
    pixels = batch.images.double()
    images, texts = encode_by_parts(encoder, encoder.encode_image, pixels, batch.texts, 4)
    calls = []
    monkeypatch.setattr(gradient_cache, "calls_on_all_ranks", lambda encoder, calls: calls + 2)

    def counted(chunk, dense):
        calls.append(len(chunk))
        return encoder.encode_image(chunk, dense)

    more_images, more_texts = encode_by_parts(encoder, counted, pixels, batch.texts, 4)
    assert calls == [4, 4, 2, 1, 1]
    for features, more in ((images, more_images), (texts, more_texts)):
        torch.testing.assert_close(tuple(more), tuple(features), rtol=1e-10, atol=1e-12)


def test_split_texts_keeps_every_text(batch):
    for parts in (1, 2, 5, 1000):
        pieces = list(split_texts(batch.texts, parts))
        assert len(pieces) == min(parts, len(batch.texts.ids))
        assert torch.cat([p.tokens for p in pieces]).equal(batch.texts.tokens)
        assert torch.cat([p.ids for p in pieces]).equal(batch.texts.ids)
        assert torch.cat([p.offsets.diff() for p in pieces]).equal(batch.texts.offsets.diff())
        assert min(len(p.ids) for p in pieces) >= 1


@pytest.mark.parametrize("lengths", [[248, *[12] * 7], [*[12] * 7, 248], [12, 248, 12], [5] * 8])
def test_long_texts_change_no_number_of_parts(lengths):
    """On which ranks agree under FSDP2."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    texts = RaggedTexts(torch.arange(sum(lengths)), offsets, torch.arange(len(lengths)))
    for parts in range(1, 12):
        pieces = list(split_texts(texts, parts))
        assert len(pieces) == min(parts, len(lengths))
        assert torch.cat([piece.offsets.diff() for piece in pieces]).tolist() == lengths


def test_part_must_be_positive():
    with pytest.raises(ValueError, match=r"memory\.grad_cache_chunk must be at least 1, got 0"):
        MemoryConfig(grad_cache_chunk=0)
