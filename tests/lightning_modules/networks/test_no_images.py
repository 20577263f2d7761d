"""A batch without images (no crops, a rank whose validation data has ended) passes through every image tower."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datamodules.batching.region_sampling import RegionSampling
from lightning_modules import ClipFinetune, CropTarget, HarmoClip
from lightning_modules.networks import DualEncoder, EncoderConfig, load_encoder
from tests.helpers.small_open_clip import MODELS, write_model
from tests.helpers.small_siglip import write_siglip
from tests.helpers.tiny_regions import region_data, write_regions
from tests.helpers.tiny_run import TINY

TIMM = {"timm/test_vit.r160_in1k": 160, "timm/test_resnet.r160_in1k": 64, "timm/test_convnext.r160_in1k": 64}
SIZES = replace(TINY, context_length=64)


def make(name, folder):
    if name == "clip":
        return DualEncoder(TINY)
    if name.startswith("timm/"):
        return DualEncoder(EncoderConfig(image_tower=name, image_size=TIMM[name], embed_dim=24, text_layers=1))
    if name in ("siglip", "siglip2"):
        return load_encoder(write_siglip(folder, name))
    write_model(folder, name.removeprefix("open_clip/"))
    return load_encoder(folder)


@pytest.mark.parametrize("name", ["clip", *TIMM, "siglip", "siglip2", *(f"open_clip/{name}" for name in MODELS)])
def test_features_of_no_image_are_empty_and_have_gradients(name, tmp_path):
    """Of the shapes that an image's have. Their gradients are zeros, for the weights that an image's have: no rank
    waits for another's.
    """
    encoder = make(name, tmp_path).train()
    side = encoder.image_size
    for dense in (True, False):
        some, none = (encoder.encode_image(torch.ones(count, 3, side, side), dense) for count in (2, 0))
        assert [one.shape[1:] for one in none] == [one.shape[1:] for one in some]
        assert [len(one) for one in none] == [0, 0]
        encoder.zero_grad()
        torch.stack([one.sum() for one in some]).sum().backward()
        trained = {key for key, parameter in encoder.named_parameters() if parameter.grad is not None}
        encoder.zero_grad()
        torch.stack([one.sum() for one in none]).sum().backward()
        grads = {key: p.grad for key, p in encoder.named_parameters() if p.grad is not None}
        assert grads.keys() == trained
        assert not any(grad.any() for grad in grads.values())


def batch_of(encoder, folder, crops=1):
    data = region_data(write_regions(folder), RegionSampling(crops=crops), context=encoder.config.context_length)
    data.input_format = encoder.input_format
    data.setup("fit")
    return data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)


def test_crop_losses_train_a_siglip_on_a_batch_without_crops(tmp_path):
    source = write_siglip(tmp_path / "siglip2")
    for teacher in ("self_detached", "trained", "frozen"):
        crops = [CropTarget(teacher=teacher)]
        method = HarmoClip(encoder=SIZES, pretrained=str(source), lexeme_weight=0, region_losses=crops).train()
        batch = batch_of(method.encoder, tmp_path, crops=0)
        assert len(batch.crops.pixels) == 0
        terms = method.losses(batch, method.features(batch))
        assert terms["region_crop"] == 0
        torch.stack(list(terms.values())).sum().backward()
        assert terms["global"] > 0


def test_a_rank_without_samples_validates_a_siglip(tmp_path):
    source = write_siglip(tmp_path / "siglip2")
    method = ClipFinetune(encoder=SIZES, pretrained=str(source)).eval()
    method._validated = (method.encoder,)
    batch = batch_of(method.encoder, tmp_path)
    features = method.features(batch._replace(images=batch.images[:0]))
    assert features.images.image.shape == (0, 16)
