"""The frozen first blocks of an image tower run once for each image, whatever the family, and nothing else changes."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from datamodules import RandomCrop, Squash
from lightning_modules import ClipFinetune, MulClip
from lightning_modules.methods.freezing import FreezeConfig, freeze_towers
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.networks import DualEncoder, load_encoder
from lightning_modules.networks.frozen_features import FrozenFeatures
from lightning_modules.networks.lora import LoraConfig
from tests.helpers.simulated_device import simulated_device
from tests.helpers.small_open_clip import MODELS, write_model
from tests.helpers.small_siglip import write_siglip
from tests.helpers.tiny_run import TINY, first_batch, fit

pytestmark = pytest.mark.filterwarnings("ignore")
TIMM = replace(TINY, image_size=64, patch_size=8, image_width=128, image_layers=4, image_heads=4)


def timm(name, side=64):
    return lambda folder: DualEncoder(replace(TIMM, image_tower=f"timm/{name}", image_size=side))


def open_clip(name):
    def make(folder):
        write_model(folder, name)
        return load_encoder(folder)

    return make


def siglip(folder):
    write_siglip(folder)
    return load_encoder(folder)


FAMILIES = {
    "clip": lambda folder: DualEncoder(TINY),
    "efficientnet": timm("test_efficientnet"),
    "resnet": timm("test_resnet"),
    "vit": timm("test_vit"),
    "siglip": siglip,
    **{f"open_clip_{name}": open_clip(name) for name in ("convnext", "attentional", "resnet", "bias", "siglip")},
}


@pytest.mark.parametrize("extent", [1, "most", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_and_gradients_are_the_same_and_an_image_is_computed_once(tmp_path, family, extent):
    torch.manual_seed(0)
    encoder = FAMILIES[family](tmp_path).double().train()
    blocks = len(encoder.image_blocks())
    count = blocks if extent == "all" else blocks - 1 if extent == "most" else 1
    freeze_towers(encoder, FreezeConfig(image_tower=max(count, 1)), None)
    plain, rows = copy.deepcopy(encoder), []
    encoder.image_blocks()[0].register_forward_hook(lambda module, given, output: rows.append(len(output)))
    kept = FrozenFeatures(encoder, 1.0)
    side = encoder.image_size
    images = torch.randn(5, 3, side, side, dtype=torch.float64)
    for wanted in ([0, 1, 2], [2, 3, 1, 3], [4], [0, 1, 2, 3, 4]):
        for dense in (True, False):
            results = []
            for encode, model in ((kept, encoder), (plain.encode_image, plain)):
                model.zero_grad()
                features = encode(images[wanted], dense)
                (features.image.square() * torch.arange(features.image.shape[1])).sum().backward(retain_graph=dense)
                if dense and features.dense.requires_grad:
                    (features.dense.sin() * 0.1).sum().backward()
                gradients = {name: p.grad for name, p in model.image_tower.named_parameters() if p.grad is not None}
                results.append((features.image.detach(), features.dense.detach(), gradients))
            torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)
    kinds = (
        2 if family == "clip" and extent == "all" else 1
    )  # its last block leaves patches out where they are not read
    assert (kept.asked, kept.found) == (2 * 13, 2 * 13 - kinds * 6)  # one came twice in a batch, before it was kept
    assert sum(rows) == 18 + kinds * 5 + 2 * 4  # the checks; each image; and one of each batch


def test_a_training_run_is_the_same(tmp_path):
    freeze = FreezeConfig(1)
    plain = fit(tmp_path / "plain", epochs=3, transform=Squash(), freeze=freeze)
    kept = fit(tmp_path / "kept", epochs=3, transform=Squash(), freeze=replace(freeze, feature_cache_gib=1))
    for (name, ours), theirs in zip(
        kept.lightning_module.named_parameters(), plain.lightning_module.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)
    found = kept.lightning_module.frozen_features
    # training and validation ask for 24 images in each of three epochs; they are the same images, prepared alike
    assert (found.asked, found.found) == (2 * 3 * 24, 2 * 3 * 24 - 24)


def test_by_parts_too(tmp_path):
    batch = first_batch(tmp_path, 6, 6)
    batch = batch._replace(images=batch.images.double())
    gradients = []
    for freeze, memory in ((FreezeConfig(1), None), (FreezeConfig(1, feature_cache_gib=1), 4)):
        torch.manual_seed(0)
        method = MulClip(encoder=TINY, freeze=freeze, memory=MemoryConfig(memory)).double()
        torch.stack(list(method.losses(batch, method.features(batch)).values())).sum().backward()
        gradients.append({name: p.grad for name, p in method.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-12)


def test_a_few_random_crops_come_again(tmp_path):
    run = fit(tmp_path, epochs=12, method=ClipFinetune, transform=RandomCrop((0.5, 0.8), views=2),
              freeze=FreezeConfig(1, feature_cache_gib=1), trainer={"limit_val_batches": 0})  # fmt: skip
    found = run.lightning_module.frozen_features
    assert found.asked == 12 * 24
    assert 24 < found.asked - found.found <= 2 * 24


def test_memory_is_bounded_and_what_does_not_fit_is_computed_again():
    encoder = DualEncoder(TINY)
    freeze_towers(encoder, FreezeConfig(1), None)
    row = 5 * 16 * 4  # tokens of an image, their width, bytes
    kept = FrozenFeatures(encoder, 3.5 * row / 2**30)
    images = torch.randn(5, 3, 16, 16)
    wanted = encoder.encode_image(images)
    for _ in range(2):
        torch.testing.assert_close(kept(images), wanted)
    assert (kept.asked, kept.found) == (10, 3)
    kept.clear()
    kept(images)
    kept(images)
    assert kept.found == 6


def test_other_weights_and_thawed_blocks_are_not_missed(tmp_path):
    method = ClipFinetune(encoder=TINY, freeze=FreezeConfig(1, feature_cache_gib=1))
    images = torch.randn(2, 3, 16, 16)
    method.frozen_features(images)
    with torch.no_grad():
        for parameter in method.encoder.image_blocks()[0].parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(method.frozen_features(images).image, method.encoder.encode_image(images).image)
    method.on_load_checkpoint({})
    torch.testing.assert_close(method.frozen_features(images), method.encoder.encode_image(images))
    method.encoder.image_blocks()[0].requires_grad_(True)
    method.frozen_features(images).image.sum().backward()
    assert all(p.grad is not None for p in method.encoder.image_blocks()[0].parameters())


def test_no_image_at_all():
    method = ClipFinetune(encoder=TINY, freeze=FreezeConfig(1, feature_cache_gib=1))
    assert method.frozen_features(torch.zeros(0, 3, 16, 16)).image.shape == (0, 16)


@pytest.mark.parametrize(
    ("freeze", "lora"),
    [({}, None), ({"image_tower": 0}, None), ({"image_tower": "all_but_norms"}, None),
     ({"text_tower": "all"}, LoraConfig(image_tower=("qkv",), text_tower=()))],
)  # fmt: skip
def test_nothing_to_keep(freeze, lora):
    with pytest.raises(ValueError, match=r"feature_cache_gib must be 0 where the image tower's first block is trained"):
        ClipFinetune(encoder=TINY, freeze=FreezeConfig(**freeze, feature_cache_gib=0.5), lora=lora)


def test_batch_norm_in_training_mode_is_refused(tmp_path):
    encoder = timm("test_efficientnet")(tmp_path)
    freeze_towers(encoder, FreezeConfig(1), None)
    encoder.image_tower.trunk.train()
    with pytest.raises(ValueError, match=r"other features beside other images \(batch norm in training mode\)"):
        FrozenFeatures(encoder, 1)(torch.randn(2, 3, encoder.image_size, encoder.image_size))


def test_blocks_that_draw_at_random_or_are_compiled_are_refused():
    encoder = DualEncoder(TINY).train()
    freeze_towers(encoder, FreezeConfig(1), None)
    encoder.image_tower.pos_drop = torch.nn.Dropout(0.5)
    with pytest.raises(ValueError, match=r"must be 0: the frozen blocks draw at random \(dropout\)"):
        FrozenFeatures(encoder, 1)(torch.randn(2, 3, 16, 16))
    encoder.image_tower.pos_drop = torch.nn.Identity()
    encoder.image_blocks()[0].compile(backend="eager")
    with pytest.raises(ValueError, match="must be 0 where blocks are compiled"):
        FrozenFeatures(encoder, 1)(torch.randn(2, 3, 16, 16))


def test_stochastic_depth_is_refused_whatever_it_draws(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS["convnext"]["vision_cfg"], "timm_drop_path", 0.1)
    encoder = open_clip("convnext")(tmp_path).train()
    for module in encoder.image_tower.modules():
        if isinstance(gamma := getattr(module, "gamma", None), torch.nn.Parameter):
            gamma.data.fill_(0.5)  # the share of a branch, 1e-6 at the start
    freeze_towers(encoder, FreezeConfig(image_tower=len(encoder.image_blocks())), None)
    images = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    modes = [module.training for module in encoder.modules()]
    for seed in range(8):
        torch.manual_seed(seed)
        with pytest.raises(ValueError, match=r"the frozen blocks draw at random \(dropout\)"):
            FrozenFeatures(encoder, 1)(images)
        assert [module.training for module in encoder.modules()] == modes
    encoder.eval()
    torch.testing.assert_close(FrozenFeatures(encoder, 1)(images), encoder.encode_image(images))


@pytest.mark.parametrize("extent", [2, 3])
def test_blocks_that_run_in_parallel_are_refused(extent):
    """HRNet's branches: the rest of the tower reads other blocks than the last frozen one, of one image only."""
    encoder = timm("hrnet_w18_small")(None)
    freeze_towers(encoder, FreezeConfig(image_tower=extent), None)
    with pytest.raises(ValueError, match=r"the rest of the image tower reads more than the last of its frozen blocks"):
        FrozenFeatures(encoder, 1)(torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_trained_parts_between_frozen_blocks_are_refused(context):
    """Visformer embeds patches anew after its seventh block, by a convolution that is no block."""
    encoder = timm("visformer_tiny", 224)(None)
    images = torch.randn(2, 3, 224, 224)
    for extent in (7, 8):
        freeze_towers(encoder, FreezeConfig(image_tower=extent), None)
        with context():
            kept = FrozenFeatures(encoder, 1)
            if extent == 7:
                torch.testing.assert_close(kept(images), encoder.encode_image(images), rtol=0, atol=1e-4)
                continue
            with pytest.raises(ValueError, match="that are trained run before the last of its frozen blocks ends"):
                kept(images)


def test_a_tower_whose_blocks_are_not_known_is_told_of():
    with pytest.raises(ValueError, match=r"feature_cache_gib must be 0: the image tower's blocks are not known"):
        ClipFinetune(
            encoder=replace(TIMM, image_tower="timm/regnetx_002"), freeze=FreezeConfig("all", feature_cache_gib=1)
        )


@pytest.mark.parametrize("make", [lambda folder: DualEncoder(TINY), timm("test_resnet")])
@torch.no_grad()
def test_features_of_another_precision_are_not_kept(make):
    encoder = make(None).eval()
    freeze_towers(encoder, FreezeConfig(1), None)
    kept, images = FrozenFeatures(encoder, 1), torch.randn(2, 3, encoder.image_size, encoder.image_size)
    for half in (True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            torch.testing.assert_close(kept(images), encoder.encode_image(images), rtol=1e-6, atol=1e-5)
    kept(images)
    encoder.bfloat16()
    torch.testing.assert_close(kept(images), encoder.encode_image(images))
    assert kept.found == 0
    kept(images)
    assert kept.found == 2


def test_features_of_another_device_are_not_kept():
    encoder, images = DualEncoder(TINY), torch.randn(2, 3, 16, 16)
    freeze_towers(encoder, FreezeConfig(1), None)
    kept = FrozenFeatures(encoder, 1)
    with simulated_device():
        encoder.to("cuda")
        kept(images.to("cuda"))
        encoder.to("cpu")
        torch.testing.assert_close(kept(images), encoder.encode_image(images))


@pytest.mark.parametrize("gib", [-1, float("inf"), float("nan")])
def test_memory_must_be_a_number(gib):
    with pytest.raises(ValueError, match=r"freeze\.feature_cache_gib must be 0 or more"):
        FreezeConfig("all", feature_cache_gib=gib)


def test_sharded_weights_are_refused(monkeypatch):
    method = ClipFinetune(encoder=TINY, freeze=FreezeConfig(1, feature_cache_gib=1))
    monkeypatch.setattr(ClipFinetune, "device_mesh", object())
    with pytest.raises(ValueError, match=r"freeze\.feature_cache_gib needs whole weights on each rank"):
        method.configure_model()
