"""Low-rank adapters: where they stand, what they add, and the plain weights that they become."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import LoraLayer
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.swin_transformer_v2 import WindowAttention

from lightning_modules.networks import DualEncoder, load_encoder
from lightning_modules.networks.adapters import adapter_scale, merged, plain_state
from lightning_modules.networks.lora import LoraConfig, adapter_parameters, add_adapters
from lightning_modules.networks.text_encoding import encode_strings
from lightning_modules.networks.tower_parts import towers
from tests.helpers.small_open_clip import write_model
from tests.helpers.tiny_run import TINY

PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


PLAIN = LoraConfig()
POSITION_BIAS = ("cpb_mlp.0", "cpb_mlp.2")  # in the attention of Swin V2


def adapted(config=PLAIN, encoder=TINY):
    """An encoder whose adapters are not zero, and the same without them."""
    torch.manual_seed(1)
    plain = DualEncoder(encoder)
    with_adapters = copy.deepcopy(plain)
    add_adapters(with_adapters, config)
    for parameter in adapter_parameters(with_adapters):
        torch.nn.init.normal_(parameter, std=0.2)
    return with_adapters, plain


def sites(encoder):
    return {name for name, module in encoder.named_modules() if isinstance(module, LoraLayer)}


@pytest.mark.parametrize(
    ("image", "text", "expected"),
    [
        (("qkv",), (), {"image_tower.blocks.0.attn.qkv", "image_tower.blocks.1.attn.qkv"}),
        (
            ("mlp",), ("q_proj",),
            {
                *(f"image_tower.blocks.{i}.mlp.fc{j}" for i in (0, 1) for j in (1, 2)),
                "text_tower.transformer.encoder.layers.0.self_attn.q_proj",
            },
        ),
        (
            (), ("attention", "fc1"),
            {
                *(f"text_tower.transformer.encoder.layers.0.self_attn.{n}_proj" for n in ("q", "k", "v", "out")),
                "text_tower.transformer.encoder.layers.0.mlp.fc1",
            },
        ),
    ],
)  # fmt: skip
def test_targets(image, text, expected):
    encoder, _ = adapted(LoraConfig(image_tower=image, text_tower=text))
    assert sites(encoder) == expected
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    adapters = {f"{site}.lora_{part}.default.weight" for site in expected for part in "AB"}
    others = {name for name, _ in encoder.named_parameters()} - adapters
    free = [tower for tower, targets in (("image_tower", image), ("text_tower", text)) if not targets]
    assert trained == adapters | {n for n in others if n == "temperature.log_scale" or n.startswith(tuple(free))}


def test_an_adapted_encoder_starts_as_the_plain_one():
    torch.manual_seed(1)
    plain = DualEncoder(TINY)
    encoder = copy.deepcopy(plain)
    add_adapters(encoder, LoraConfig())
    assert torch.equal(encoder.encode_image(PIXELS).image, plain.encode_image(PIXELS).image)
    assert {p.shape[0] for name, p in encoder.named_parameters() if "lora_A" in name} == {8}


def test_adapters_add_alpha_over_rank_times_b_a():
    encoder, plain = adapted(LoraConfig(rank=2, alpha=3.0))
    assert adapter_scale(encoder) == 1.5
    assert adapter_scale(plain) == 1.0
    layer = encoder.get_submodule("image_tower.blocks.1.attn.qkv")
    weight = plain.get_parameter("image_tower.blocks.1.attn.qkv.weight")
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    state = plain_state(encoder)
    torch.testing.assert_close(state["image_tower.blocks.1.attn.qkv.weight"], weight + 1.5 * up @ down)
    assert state.keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        touched = name.endswith("weight") and any(part in name for part in ("attn.", "mlp."))
        assert torch.equal(state[name], tensor) != touched, name


def test_merged_weights_are_those_of_peft_s_own_merge():
    encoder, _ = adapted(LoraConfig(rank=3, alpha=7.0))
    state = plain_state(encoder)
    for name in sites(encoder):
        layer = encoder.get_submodule(name)
        layer.merge()
        torch.testing.assert_close(state[f"{name}.weight"], layer.get_base_layer().weight, rtol=0, atol=1e-6)


def test_a_merged_encoder_embeds_as_the_adapted_one():
    encoder, _ = adapted()
    same = DualEncoder(TINY)
    same.load_state_dict(merged(encoder.state_dict(), LoraConfig().scale))
    torch.testing.assert_close(
        same.encode_image(PIXELS).image, encoder.encode_image(PIXELS).image, rtol=0, atol=1e-5
    )  # fmt: skip


def test_larger_images_have_the_adapters_in_their_weights():
    """As the benchmarks of boxes embed them while a model trains."""
    encoder, _ = adapted()
    torch.testing.assert_close(
        encoder.with_grid(2).encode_image(PIXELS).image, encoder.encode_image(PIXELS).image, rtol=0, atol=1e-5
    )
    assert encoder.with_grid(4).encode_image(torch.rand(1, 3, 32, 32)).image.isfinite().all()


def test_half_precision_is_merged_in_single_precision():
    encoder, _ = adapted()
    half = {name: tensor.bfloat16() for name, tensor in encoder.state_dict().items()}
    exact = merged({name: tensor.double() for name, tensor in half.items()}, 2.0)
    for name, tensor in merged(half, 2.0).items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, exact[name].bfloat16()), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lora.rank must be at least 1, got 0"),
        ({"alpha": 0.0}, "lora.alpha must be above 0, got 0.0"),
        ({"alpha": float("inf")}, "lora.alpha must be above 0, got inf"),
        ({"dropout": 1.0}, r"lora.dropout must lie in \[0, 1\), got 1.0"),
        ({"image_tower": (), "text_tower": ()}, r"lora.image_tower or lora.text_tower must name modules, got \[\]"),
        ({"image_tower": ("qvk",)}, "lora.image_tower: the tower's blocks .* 'qvk'; did you mean qkv?"),
        ({"text_tower": ("q_prj",)}, "lora.text_tower: the tower's blocks .* 'q_prj'; did you mean q_proj?"),
        ({"text_tower": ("patch",)}, "'patch'; they have attention, mlp, fc1, fc2, k_proj, out_proj, q_proj, v_proj"),
        ({"image_tower": ("norm1",)}, "no linear module 'norm1'; they have attention, mlp, fc1, fc2, proj, qkv"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        add_adapters(DualEncoder(TINY), LoraConfig(**settings))


def test_a_missing_peft_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"model\.lora needs the library peft: pip install 'grainclip\[lora\]'"):
        add_adapters(DualEncoder(TINY), LoraConfig())


@pytest.fixture(scope="module")
def of_open_clip(tmp_path_factory):
    """An encoder with towers of open_clip's own, whose attention has no linear modules that are called."""
    folder = tmp_path_factory.mktemp("clipa")
    write_model(folder, "clipa")
    return load_encoder(folder).eval()


def test_towers_of_open_clip_have_adapters_in_their_mlps(of_open_clip):
    encoder = copy.deepcopy(of_open_clip)
    add_adapters(encoder, LoraConfig(rank=2, image_tower=("mlp",), text_tower=("c_fc",)))
    adapters = adapter_parameters(encoder)
    assert len(adapters) == 2 * (2 * 2 + 2)  # two matrices for each module of two blocks a tower
    for parameter in adapters:
        torch.nn.init.normal_(parameter, std=0.2)
    pixels = torch.rand(2, 3, encoder.image_size, encoder.image_size)
    image = encoder.encode_image(pixels).image
    text = encode_strings(of_open_clip, ["a boat"], torch.device("cpu"))
    assert not torch.equal(encode_strings(encoder, ["a boat"], torch.device("cpu")), text)
    image.sum().backward()
    assert all(p.grad is not None for n, p in encoder.image_tower.named_parameters() if "lora_" in n)
    same = copy.deepcopy(of_open_clip)
    same.load_state_dict(plain_state(encoder))
    torch.testing.assert_close(same.encode_image(pixels).image, image, rtol=0, atol=1e-5)


def test_an_exported_model_of_open_clip_has_the_adapters_in_its_weights(of_open_clip, tmp_path):
    encoder = copy.deepcopy(of_open_clip)
    add_adapters(encoder, LoraConfig(rank=2, image_tower=("mlp",), text_tower=("mlp",)))
    for parameter in adapter_parameters(encoder):
        torch.nn.init.normal_(parameter, std=0.2)
    encoder.save_pretrained(tmp_path)
    again = load_encoder(tmp_path).eval()
    pixels = torch.rand(2, 3, encoder.image_size, encoder.image_size)
    torch.testing.assert_close(again.encode_image(pixels).image, encoder.encode_image(pixels).image, rtol=0, atol=1e-5)
    texts = [encode_strings(model, ["a boat"], torch.device("cpu")) for model in (again, encoder)]
    torch.testing.assert_close(*texts, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        (lambda: WindowAttention(16, (2, 2), 2), {"proj", *POSITION_BIAS}),
        (lambda: WindowAttention(16, (2, 2), 2, qkv_bias_separate=True), {"qkv", "proj", *POSITION_BIAS}),
        (lambda: WindowAttention(16, (2, 2), 2, qkv_bias=False), {"qkv", "proj", *POSITION_BIAS}),
        (lambda: BeitAttention(16, 2, qkv_bias=True), {"proj"}),
        (lambda: EvaAttention(16, 2, norm_layer=torch.nn.LayerNorm), {"proj"}),
        (
            lambda: EvaAttention(16, 2, qkv_fused=False, norm_layer=torch.nn.LayerNorm),
            {"q_proj", "k_proj", "v_proj", "proj"},
        ),
    ],
)
def test_adapters_stand_where_timm_calls_the_module(attention, expected):
    """Swin V2, BEiT and EVA may read ``qkv.weight`` past the module: an adapter there would take no part."""
    encoder = DualEncoder(TINY)
    for block in encoder.image_blocks():
        block.attn = attention()
    add_adapters(encoder, LoraConfig(rank=2, image_tower=("attention",), text_tower=()))
    assert {site.partition(".attn.")[2] for site in sites(encoder)} == expected
    for block in encoder.image_blocks():
        block.attn(torch.rand(1, 4, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in adapter_parameters(encoder))


def test_an_attention_without_called_modules_is_refused(of_open_clip):
    message = "lora.text_tower: .* no linear module 'attention'; they have mlp, c_fc, c_proj"
    with pytest.raises(ValueError, match=message):
        add_adapters(copy.deepcopy(of_open_clip), LoraConfig(image_tower=("mlp",)))


def test_a_projection_that_stands_beside_the_embeddings_is_none(of_open_clip):
    image, text = towers(of_open_clip)
    head = len(image.blocks) + 1
    assert image.depths()[id(of_open_clip.image_tower.visual.proj)] == head
    assert text.depths()[id(of_open_clip.text_tower.text.text_projection)] == head
    assert image.depths()[id(of_open_clip.image_tower.visual.positional_embedding)] == 0
    assert text.depths()[id(of_open_clip.text_tower.text.token_embedding.weight)] == 0


def test_blocks_of_other_sizes():
    encoder, _ = adapted(LoraConfig(image_tower=("attention",)), replace(TINY, image_layers=4))
    assert sum(name.startswith("image_tower") for name in sites(encoder)) == 8
