"""The image tower: CLIP's class token untouched, patches by the value-only path, checkpointing that happens."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.networks.image_tower import ImageTower


@pytest.fixture
def tower(encoder):
    return encoder.image_tower.double()


@pytest.fixture
def ordinary(tower, small):
    """timm's own CLIP vision transformer with the same weights: every token attends in every block."""
    vit = VisionTransformer(
        img_size=small.image_size,
        patch_size=small.patch_size,
        num_classes=0,
        global_pool="",
        embed_dim=small.image_width,
        depth=small.image_layers,
        num_heads=small.image_heads,
        pre_norm=True,
        norm_layer=nn.LayerNorm,
        act_layer="quick_gelu",
    ).double()
    vit.load_state_dict({name: t for name, t in tower.state_dict().items() if not name.startswith("projection")})
    return vit


@pytest.fixture
def pixels(small):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, small.image_size, small.image_size, generator=generator, dtype=torch.float64)


def value_only_oracle(tower, tokens):
    """The last block for one image, token by token, from the equations."""
    block = tower.blocks[-1]
    width, heads = tokens.shape[1], block.attn.num_heads
    weights, biases = block.attn.qkv.weight.split(width), block.attn.qkv.bias.split(width)
    u = block.norm1(tokens)
    q, k, v = (u @ w.T + b for w, b in zip(weights, biases, strict=True))
    size = width // heads
    out = []
    for i in range(len(tokens)):
        mixed = v[i]
        if i == 0:
            parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
            mixed = torch.cat([(q[0, p] @ k[:, p].T / size**0.5).softmax(0) @ v[:, p] for p in parts])
        y = tokens[i] + block.attn.proj.weight @ mixed + block.attn.proj.bias
        out.append(y + block.mlp(block.norm2(y)))
    return torch.stack(out)


def test_all_tokens_follow_the_equations(tower, ordinary, pixels):
    with torch.no_grad():
        got = tower(pixels)
        before = ordinary.forward_intermediates(pixels, indices=[1], output_fmt="NLC", return_prefix_tokens=True)[1][0]
        for i in range(len(pixels)):
            tokens = value_only_oracle(tower, torch.cat([before[1][i], before[0][i]]))
            torch.testing.assert_close(got[i], tower.norm(tokens) @ tower.projection.weight.T)


def test_class_token_is_clips_and_patches_are_not(tower, ordinary, pixels):
    with torch.no_grad():
        got, plain = tower(pixels), ordinary(pixels) @ tower.projection.weight.T
    torch.testing.assert_close(got[:, 0], plain[:, 0])
    assert (got[:, 1:] - plain[:, 1:]).abs().amax(-1).min() > 1e-3


def test_in_the_last_block_a_patch_sees_only_itself(tower, small, pixels):
    """With one block, changing one patch of the image changes its own token and the class token, no other."""
    tower.blocks = tower.blocks[-1:]
    changed = pixels.clone()
    changed[:, :, : small.patch_size, small.patch_size : 2 * small.patch_size] += 1.0  # patch 1 of row 0
    with torch.no_grad():
        differs = (tower(pixels) - tower(changed)).abs().amax(-1) > 1e-9
    assert differs[:, [0, 2]].all()
    assert differs.sum() == 2 * len(pixels)


def test_names_are_timms(tower, ordinary):
    assert tower.state_dict().keys() - ordinary.state_dict().keys() == {"projection.weight"}


def gradients_and_kept_bytes(tower, pixels):
    """All gradients, the bytes autograd kept for the backward pass, and how often the blocks ran."""
    kept, runs = [0], [0]
    hooks = [block.register_forward_pre_hook(lambda *_: runs.__setitem__(0, runs[0] + 1)) for block in tower.blocks]

    def pack(tensor):
        kept[0] += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = tower(pixels).square().sum()
    bytes_kept = kept[0]
    tower.zero_grad()
    loss.backward()
    for hook in hooks:
        hook.remove()
    return {name: p.grad.clone() for name, p in tower.named_parameters()}, bytes_kept, runs[0]


def test_checkpointing_recomputes_and_changes_nothing(tower, pixels):
    plain, kept_plain, runs_plain = gradients_and_kept_bytes(tower, pixels)
    tower.set_grad_checkpointing()
    saved, kept_saved, runs_saved = gradients_and_kept_bytes(tower, pixels)
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient)
    assert (runs_plain, runs_saved) == (len(tower.blocks), 2 * len(tower.blocks))
    assert kept_saved < kept_plain / 3


def test_sizes_and_activation_come_from_the_config(small):
    tower = ImageTower(small)
    assert isinstance(tower, VisionTransformer)
    assert tower.patch_embed.proj.bias is None
    assert {norm.eps for norm in tower.modules() if isinstance(norm, nn.LayerNorm)} == {1e-5}
    assert {type(block.mlp.act).__name__ for block in tower.blocks} == {"QuickGELU"}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_class_token_alone_is_the_class_token_of_all(tower, pixels, checkpointing):
    """Values, and gradients of every weight, where nothing but the class token is read."""
    tower.train().set_grad_checkpointing(checkpointing)
    gradients = []
    for dense in (True, False):
        tokens = tower(pixels, dense)
        assert tokens.shape[1] == (1 + tower.grid[0] * tower.grid[1] if dense else 1)
        tower.zero_grad()
        tokens[:, 0].square().sum().backward()
        gradients.append([tokens[:, 0].detach(), *(weight.grad.clone() for weight in tower.parameters())])
    for with_patches, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, with_patches, rtol=1e-10, atol=1e-12)


def test_operations_are_those_of_a_forward_pass(tower, pixels):
    counts = []
    for dense in (True, False):
        with FlopCounterMode(display=False) as counter:
            tower(pixels, dense)
        counts.append(counter.get_total_flops())
        assert len(pixels) * tower.forward_flops(dense) == pytest.approx(counts[-1], rel=0.15)
    spared = len(pixels) * (tower.forward_flops() - tower.forward_flops(False))
    assert counts[0] - counts[1] == pytest.approx(spared, rel=0.05)
