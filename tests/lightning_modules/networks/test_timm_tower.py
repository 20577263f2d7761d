"""Models of timm as the image tower: timm's own features, position by position, at any size that a model takes."""

from __future__ import annotations

import math
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.networks import DualEncoder, EncoderConfig, load_encoder
from lightning_modules.networks.contract import build_encoder, config_of, plain_config
from lightning_modules.networks.timm_tower import measure_statistics
from lightning_modules.networks.weights import timm_models

CONVOLUTIONAL = ("test_resnet", "test_efficientnet", "test_byobnet", "test_nfnet")  # their heads only average
TOKENS = ("test_vit", "test_vit3", "test_vit_relpos")  # class token, attention pooling, average pooling
CONFIG = EncoderConfig(
    image_size=64, text_width=16, text_layers=1, text_heads=2, embed_dim=24, context_length=77, vocab_size=97
)


def of(name, **changes):
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    torch.manual_seed(0)
    return DualEncoder(replace(CONFIG, image_tower=f"timm/{name}", **changes)).eval()


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *TOKENS, "test_convnext", "test_mambaout", "test_maxvit"])
@torch.no_grad()
def test_features_are_those_of_timm(name):
    """The same weights in a model that timm makes itself: its pooled feature and its last map, projected."""
    encoder, pixels = of(name), torch.randn(2, 3, 64, 64)
    sized = {"img_size": 64} if timm.create_model(name).pretrained_cfg["fixed_input_size"] else {}
    theirs = timm.create_model(name, **sized).eval()
    theirs.reset_classifier(0)
    theirs.load_state_dict(encoder.image_tower.trunk.state_dict())
    features, ours = theirs.forward_features(pixels), encoder.encode_image(pixels)
    project = encoder.image_tower.projection
    torch.testing.assert_close(ours.image, functional.normalize(project(theirs(pixels)), dim=1), rtol=0, atol=1e-5)
    if name in CONVOLUTIONAL:
        dense = project(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(ours.dense, dense, rtol=0, atol=1e-5)
    if name == "test_vit":  # the class token is pooled, so a patch stands in its place
        dense = project(theirs.fc_norm(features[:, 1:])).mT.unflatten(2, (4, 4))
        torch.testing.assert_close(ours.dense, dense, rtol=0, atol=1e-5)
    assert ours.dense.shape == (2, 24, *encoder.grid)
    assert encoder.grid == ((4, 4) if name in TOKENS else (2, 2))
    assert not torch.allclose(ours.dense[0, :, 0, 0], ours.dense[0, :, 1, 1], atol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit3"])
@torch.no_grad()
def test_a_position_is_what_timm_makes_of_an_image_that_is_the_same_everywhere(name):
    """Where all positions are alike, the pooled feature is each position's."""
    encoder = of(name)
    trunk = encoder.image_tower.trunk
    features = trunk.forward_features(torch.randn(1, 3, 64, 64))
    prefix = getattr(trunk, "num_prefix_tokens", 0)
    one = features[..., :1, :1] if features.ndim == 4 else features[:, prefix : prefix + 1]
    alike = trunk.forward_head(one.expand_as(features).contiguous())
    found = trunk.forward_head(encoder.image_tower._positions(features))[:1]
    torch.testing.assert_close(found, alike, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_convnext"])
def test_every_parameter_gets_a_gradient_from_clip_alone(name, random_texts, ragged):
    """DDP waits for all of them."""
    encoder = of(name).train()
    images, texts = encoder(torch.randn(2, 3, 64, 64), ragged(random_texts((9, 60))))
    (encoder.logit_scale * images.image @ texts.text.T).square().sum().backward()
    assert not [name for name, parameter in encoder.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_activation_checkpointing_changes_nothing_but_memory(name):
    encoder, pixels = of(name).train(), torch.randn(2, 3, 64, 64)
    runs, calls = [], []
    encoder.image_blocks()[0].register_forward_hook(lambda *_: calls.append("call"))
    next(iter(encoder.image_blocks()[0].children())).register_forward_hook(lambda *_: calls.append("inside"))
    for enable in (False, True, False):
        encoder.zero_grad()
        calls.clear()
        encoder.set_grad_checkpointing(enable)
        encoder.encode_image(pixels).dense.square().sum().backward()
        assert calls.count("inside") == (2 if enable else 1) * calls.count("call")
        runs.append({name: p.grad.clone() for name, p in encoder.image_tower.named_parameters() if p.grad is not None})
    torch.testing.assert_close(runs[1], runs[0])
    torch.testing.assert_close(runs[2], runs[0])


@pytest.mark.parametrize(
    ("name", "blocks"), [("test_resnet", 4), ("test_efficientnet", 5), ("test_vit", 6), ("test_convnext", 4)]
)
def test_blocks_are_the_elements_of_timms_sequences_in_order(name, blocks):
    encoder = of(name)
    order = []
    for number, block in enumerate(encoder.image_blocks()):
        block.register_forward_hook(lambda *_, number=number: order.append(number))
    encoder.encode_image(torch.randn(1, 3, 64, 64))
    assert order == list(range(blocks))


def test_running_statistics_stay_in_training():
    """Twice through, by gradient caching or else, small batches: the features of an image are its own."""
    encoder, pixels = of("test_efficientnet"), torch.randn(5, 3, 64, 64)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    expected = encoder.encode_image(pixels).image
    encoder.train()
    assert encoder.training
    assert encoder.image_tower.trunk.training
    alone = torch.cat([encoder.encode_image(image[None]).image for image in pixels])
    torch.testing.assert_close(alone, expected)
    torch.testing.assert_close(dict(encoder.named_buffers()), before, rtol=0, atol=0)


def test_statistics_of_random_weights_give_every_channel_unit_variance():
    """Measured on noise: a channel before the scale and shift of any batch norm then varies by about one."""
    encoder = of("test_efficientnet", image_size=96)
    spreads = []

    def note(module, inputs, _):
        values = inputs[0].transpose(0, 1).flatten(1)
        normed = (values - module.running_mean[:, None]) / (module.running_var[:, None] + module.eps).sqrt()
        spreads.append(normed.std(1).mean().item())

    layers = [m for m in encoder.image_tower.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.register_forward_hook(note)
    coarse = functional.interpolate(torch.randn(16, 3, 8, 8), (96, 96), mode="bilinear")
    encoder.encode_image((torch.randn(16, 3, 96, 96) + coarse) / math.sqrt(2))
    assert len(spreads) == len(layers) > 10
    assert 0.7 < min(spreads) <= max(spreads) < 1.4


def test_statistics_are_measured_alike_and_without_a_draw():
    torch.manual_seed(1)
    first = DualEncoder(replace(CONFIG, image_tower="timm/test_resnet"))
    torch.manual_seed(1)
    second = DualEncoder(replace(CONFIG, image_tower="timm/test_resnet"))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    state = torch.get_rng_state()
    measure_statistics(first.image_tower.trunk, 64)
    assert torch.equal(torch.get_rng_state(), state)


def test_statistics_are_measured_where_another_device_is_the_default():
    trunk = of("test_resnet").image_tower.trunk
    wanted = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
    for buffer in trunk.buffers():
        buffer.zero_()
    with torch.device("meta"):
        measure_statistics(trunk, 64)
    torch.testing.assert_close(dict(trunk.named_buffers()), wanted, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "side"), [("test_resnet", 3), ("test_vit", 6), ("test_coatnet", 4)])
@torch.no_grad()
def test_other_image_sizes_share_the_weights(name, side):
    encoder, pixels = of(name), torch.randn(1, 3, 64, 64)
    before = encoder.encode_image(pixels)
    larger = encoder.with_grid(side)
    assert larger.grid == (side, side)
    assert larger.image_size == larger.config.image_size == side * (16 if name == "test_vit" else 32)
    assert larger.encode_image(torch.randn(1, 3, larger.image_size, larger.image_size)).dense.shape[2:] == (side, side)
    assert larger.image_tower.projection.weight is encoder.image_tower.projection.weight
    assert larger.text_tower is encoder.text_tower
    torch.testing.assert_close(encoder.encode_image(pixels), before)
    rebuilt = build_encoder(larger.config)  # as a checkpoint's settings tell
    rebuilt.load_state_dict(larger.state_dict())
    assert encoder.with_grid(encoder.grid[0]).image_size == 64


def test_sizes_that_are_no_multiple_of_the_stride():
    encoder = of("test_resnet", image_size=100)
    assert encoder.grid == (4, 4)
    assert encoder.with_grid(4).image_size == 100
    assert encoder.with_grid(5).image_size == 160


def test_what_pixels_a_tower_is_used_to():
    encoder = of("resnet10t")
    assert encoder.input_format.mean == pytest.approx((0.485, 0.456, 0.406))
    assert encoder.input_format.std == pytest.approx((0.229, 0.224, 0.225))
    assert encoder.input_format.interpolation == "bicubic"
    assert of("test_resnet").input_format.interpolation == "bilinear"


def test_operations_are_counted():
    encoder = of("test_resnet")
    with FlopCounterMode(display=False) as counter:
        encoder.encode_image(torch.randn(3, 3, 64, 64))
    assert 3 * encoder.image_tower.forward_flops() == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        encoder.encode_image(torch.randn(3, 3, 64, 64), dense=False)
    assert 3 * encoder.image_tower.forward_flops(dense=False) == counter.get_total_flops()
    assert encoder.training_flops(4, 0, 0) == 12 * encoder.image_tower.forward_flops()


def classifier_of(name, folder, form=".safetensors"):
    """A file as timm's hub has them: the whole classifier."""
    torch.manual_seed(7)
    model = timm.create_model(name)
    file = folder / f"model{form}"
    state = {tensor_name: tensor.half().contiguous() for tensor_name, tensor in model.state_dict().items()}
    save_file(state, file) if form == ".safetensors" else torch.save(state, file)
    return model, file


@pytest.mark.parametrize("source", ["file", "folder", "pth"])
def test_weights_of_a_file_or_a_folder(source, tmp_path):
    model, file = classifier_of("test_resnet", tmp_path, ".pth" if source == "pth" else ".safetensors")
    encoder = of("test_resnet", image_weights=str(tmp_path if source == "folder" else file))
    for name, tensor in encoder.image_tower.trunk.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-3, atol=1e-3, check_dtype=False)
        assert tensor.dtype != torch.float16
    assert encoder.config.image_weights is None


def test_timms_own_weights_come_from_the_hub(tmp_path, monkeypatch):
    model, file = classifier_of("test_resnet", tmp_path)
    asked = []
    monkeypatch.setattr(timm_models, "fetch", lambda source: asked.append(source) or file)
    encoder = of("test_resnet", image_weights="pretrained")
    assert asked == ["timm/test_resnet.r160_in1k"]
    weight = encoder.image_tower.trunk.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(weight, model.state_dict()["conv1.0.weight"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_tower": "resnet50"}, "image_tower must be timm/NAME, a model of timm, or null for CLIP's own"),
        ({"image_tower": "timm/"}, "image_tower must be timm/NAME"),
        (
            {"image_tower": "timm/resnet50", "patch_size": 16},
            r"patch_size is of CLIP's own image tower.*\(or 8\), got 16",
        ),
        (
            {"image_tower": "timm/resnet50", "image_layers": 3},
            r"image_layers is of CLIP's .* leave it out \(or 4\), got 3",
        ),
        ({"image_weights": "a.safetensors"}, "image_weights are those of image_tower, which must then be timm/NAME"),
    ],
)
def test_settings_that_make_no_sense_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**change)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_tower": "timm/resnet5"}, r"timm/resnet5: timm .* has no such model; did you mean timm/resnet50"),
        ({"image_tower": "timm/resnet50.a1_in2k"}, r"no such weights; did you mean timm/resnet50.a1_in1k"),
        ({"image_tower": "timm/test_vit", "image_size": 100}, "one that image_tower timm/test_vit can take, got 100"),
        ({"image_tower": "timm/mixer_s32_224"}, "can take, got 64: it takes 224 pixels only"),
        ({"image_tower": "timm/coat_tiny", "image_size": 224}, "timm/coat_tiny can take, got 224: it gives several"),
        ({"image_tower": "timm/efficientnet_lite1", "image_weights": "pretrained"}, "no weights of efficientnet_lite1"),
    ],
)
def test_what_timm_cannot_do_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        DualEncoder(replace(CONFIG, **changes))
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_named(tmp_path):
    _, file = classifier_of("test_resnet", tmp_path)
    with pytest.raises(ValueError, match=r"image_weights .*model.safetensors lacks \d+ parameters: blocks.0"):
        of("test_efficientnet", image_weights=str(file))
    state = timm.create_model("test_resnet").state_dict()
    save_file({name: tensor for name, tensor in state.items()} | {"extra.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"has unknown 1 parameters: extra.weight"):
        of("test_resnet", image_weights=str(file))
    save_file({name: torch.zeros(3) if name == "conv1.0.weight" else t for name, t in state.items()}, file)
    with pytest.raises(ValueError, match=r"has of another shape 1 parameters: conv1.0.weight"):
        of("test_resnet", image_weights=str(file))
    save_file({name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}, file)
    of("test_resnet", image_weights=str(file))  # a count that evaluation does not need


def test_settings_go_through_plain_words():
    encoder = of("test_resnet")
    plain = plain_config(encoder.config)
    assert plain["image_tower"] == "timm/test_resnet"
    again = build_encoder(config_of(plain))
    again.load_state_dict(encoder.state_dict())


@pytest.mark.parametrize(("name", "size"), [("test_efficientnet", 96), ("test_vit", 160), ("test_convnext", 64)])
def test_open_clip_loads_what_is_saved_and_so_do_we(name, size, tmp_path, random_texts, ragged):
    encoder = of(name, image_size=size, vocab_size=49408)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    encoder.save(tmp_path, "open_clip")
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    assert type(model).__name__ == "CustomTextCLIP"
    steps = {type(step).__name__: step for step in preprocess.transforms}
    assert tuple(steps["Normalize"].mean) == pytest.approx(encoder.image_mean)
    assert steps["Resize"].size == size
    texts, pixels = random_texts((9, 70), vocabulary=49408), torch.randn(2, 3, size, size)
    padded = torch.stack([functional.pad(text, (0, 77 - len(text))) for text in texts])
    again = load_encoder(tmp_path)
    with torch.no_grad():
        image, text = model.eval().encode_image(pixels, normalize=True), model.encode_text(padded, normalize=True)
        for ours in (encoder, again.eval()):
            torch.testing.assert_close(ours.encode_image(pixels).image, image, rtol=0, atol=1e-5)
            torch.testing.assert_close(ours.encode_text(ragged(texts)).text, text, rtol=0, atol=1e-5)
    assert again.config == replace(encoder.config, init_scale=again.config.init_scale)
    torch.testing.assert_close(again.logit_scale, encoder.logit_scale)


@pytest.mark.parametrize(
    ("name", "size", "format", "message"),
    [
        ("test_resnet", 64, "transformers", "--format must be open_clip for a model with image_tower timm/test_resnet"),
        (
            "test_vit",
            64,
            "open_clip",
            "timm/test_vit with images of 160 pixels only, got 64: keep the checkpoint itself",
        ),
        ("mobilenetv3_small_050", 64, "open_clip", "without its head's hidden layer, of 1024 channels"),
    ],
)
def test_folders_that_cannot_hold_a_tower_are_refused(name, size, format, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        of(name, image_size=size).save(tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_imagenet_weights_of_efficientnet_lite0(shared):
    """The published weights tell dogs from cars at once: their features spread over real photographs."""
    file = shared / "weights" / "tf_efficientnet_lite0.safetensors"
    if not file.is_file():
        pytest.skip("needs ../shared/weights/tf_efficientnet_lite0.safetensors")
    encoder = of("tf_efficientnet_lite0", image_size=160, image_weights=str(file))
    theirs = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(file)).eval()
    pixels = torch.randn(1, 3, 160, 160)
    features = theirs.forward_features(pixels)
    dense = encoder.image_tower.projection(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(encoder.encode_image(pixels).dense, dense, rtol=0, atol=1e-5)
    assert encoder.grid == (5, 5)
    assert encoder.image_mean == (0.5, 0.5, 0.5)
