"""A model of timm as the image tower, through training: every method, gradient caching, ranks, resuming, export."""

from __future__ import annotations

import json
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from lightning import Trainer, seed_everything
from safetensors.torch import save_file
from torch.nn import functional

from lightning_modules import ClipFinetune
from lightning_modules.callbacks import AverageWeights
from lightning_modules.cli.evaluate import load_model
from lightning_modules.cli.export import encoder_of, read
from lightning_modules.cli.main import main
from lightning_modules.methods.freezing import FreezeConfig
from lightning_modules.networks import DualEncoder
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny import picture
from tests.helpers.tiny_methods import METHODS, method_data
from tests.helpers.tiny_run import TINY, assert_caching_changes_nothing
from tests.lightning_modules.ranked_run import Spec, train, train_all, write_uneven
from tests.lightning_modules.test_ranks_alike import check_alike

pytestmark = pytest.mark.filterwarnings("ignore")
SIDE = 64
TIMM = replace(TINY, image_size=SIDE, patch_size=8, image_width=128, image_layers=4, image_heads=4)
EFFICIENTNET = replace(TIMM, image_tower="timm/test_efficientnet")


def make(name, tower="test_efficientnet", weights=None, **settings):
    torch.manual_seed(2)
    return METHODS[name](encoder=replace(TIMM, image_tower=f"timm/{tower}", image_weights=weights), **settings)


def statistics(method):
    return {name: b.clone() for name, b in method.encoder.image_tower.named_buffers() if "running" in name}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A file of weights as timm's hub has them."""
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), file)
    return str(file)


@pytest.mark.parametrize("start", ["random", "weights of a file"])
@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_trains_three_steps(name, start, weights, tmp_path):
    seed_everything(0)
    method = make(name, weights=None if start == "random" else weights)
    data = method_data(tmp_path, batch_size=4, image_size=SIDE)
    before, measured = {n: p.clone() for n, p in method.named_parameters()}, statistics(method)
    assert measured
    trainer = Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(method, data)
    assert trainer.global_step == 3
    assert data.input_format.mean == method.encoder.image_mean == (0.485, 0.456, 0.406)
    still = [n for n, p in method.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert not [n for n in still if "image_tower" in n]
    torch.testing.assert_close(statistics(method), measured, rtol=0, atol=0)
    assert all(torch.isfinite(p).all() for p in method.parameters())


def test_gradient_caching_changes_nothing_and_replays_leave_the_statistics(tmp_path):
    data = method_data(tmp_path, batch_size=8, image_size=SIDE)
    data.setup("fit")
    method = make("clip").double()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    batch = batch._replace(images=batch.images.double())
    measured = statistics(method)
    assert_caching_changes_nothing(lambda: make("clip").double(), batch)
    torch.testing.assert_close(statistics(make("clip").double()), measured, rtol=0, atol=0)


RANKED = [
    Spec("beta_clip", "ddp", steps=4, image_tower="timm/test_efficientnet", grad_cache_chunk=3),
    Spec("beta_clip", "whole", steps=4, image_tower="timm/test_efficientnet", averaged=True, compiled=True),
    Spec("beta_clip", "sharded", steps=4, image_tower="timm/test_vit", recompute=True),
]


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    shards = write_uneven(tmp_path)
    ranks = run_on_ranks(train_all, 2, RANKED, shards)
    for number, spec in enumerate(RANKED):
        alone = train(replace(spec, strategy="ddp", compiled=False), shards, 1)
        check_alike([rank[number] for rank in ranks], alone)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps by the command line, and its folder."""
    folder = tmp_path_factory.mktemp("timm")
    data = method_data(folder / "data", 4, SIDE)
    command = [
        "fit", "--model", "BetaClip", "--model.pooling_heads", "2", "--model.encoder.image_tower", "timm/test_resnet",
        "--model.encoder.text_width", "16", "--model.encoder.text_heads", "2", "--model.encoder.text_layers", "1",
        "--model.encoder.embed_dim", "16", "--model.encoder.context_length", "77", "--data.batch_size", "4",
        "--data.shards", str(data.shards[0]), "--data.val_shards", str(data.shards[0]), "--data.num_workers", "0",
        "--data.sampling.sentences", "2", "--data.sampling.phrases", "3", "--trainer.accelerator", "cpu",
        "--name", "timm", "--runs", str(folder), "--ckpt_path", "last", "--seed_everything", "1",
    ]  # fmt: skip
    assert main([*command, "--trainer.max_steps", "2"]) == 0
    assert main([*command, "--trainer.max_steps", "3"]) == 0
    return folder / "timm" / "checkpoints" / "last.ckpt", data, folder


@pytest.mark.slow
def test_a_run_goes_on_and_its_checkpoint_is_the_trained_model(run):
    checkpoint, _, _ = run
    saved = read(checkpoint)
    assert saved["global_step"] == 3
    assert saved["grainclip"]["encoder"]["image_tower"] == "timm/test_resnet"
    encoder = encoder_of(saved)
    name = "image_tower.trunk.conv1.0.weight"
    assert torch.equal(encoder.state_dict()[name], saved["state_dict"][f"encoder.{name}"])
    assert not torch.equal(encoder.state_dict()[name], DualEncoder(encoder.config).state_dict()[name])


def test_its_export_is_what_open_clip_loads(run, tmp_path, capsys):
    checkpoint, _, _ = run
    with pytest.raises(SystemExit):
        main(["export", str(checkpoint), str(tmp_path / "out")])
    assert "--format must be open_clip for a model with image_tower timm/test_resnet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--format", "open_clip"]) == 0
    settings = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    assert settings["preprocess_cfg"]["interpolation"] == "bilinear"
    ours, _ = load_model(str(checkpoint), torch.device("cpu"))
    again, _ = load_model(str(tmp_path / "out"), torch.device("cpu"))
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    texts, squares = ["a red cube", "two boats"], torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    pixels = ours.encoder.input_format.normalise(squares)
    with torch.no_grad():
        image = model.eval().encode_image(pixels, normalize=True)
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(texts)
        text = functional.normalize(model.encode_text(tokens), dim=-1)
    for loaded in (ours, again):
        torch.testing.assert_close(loaded.encode_image(squares).image, image, rtol=0, atol=1e-5)
        torch.testing.assert_close(loaded.encode_text(texts), text, rtol=0, atol=1e-5)


def test_evaluate_explain_and_predict(run, tmp_path):
    checkpoint, data, _ = run
    (tmp_path / "images").mkdir()
    pairs = [{"image": f"{n}.jpg", "captions": [f"a picture of {n} boats"]} for n in range(4)]
    for number, pair in enumerate(pairs):
        (tmp_path / "images" / pair["image"]).write_bytes(picture(number))
    image = str(tmp_path / "images" / "0.jpg")
    explained, out = tmp_path / "out.html", tmp_path / "vectors"
    model = ["--model", str(checkpoint)]
    assert (
        main(["explain", *model, "--image", image, "--text", "a boat", "--out", str(explained), "--device", "cpu"]) == 0
    )
    assert "a boat" in explained.read_text()
    assert main(["predict", *model, "--shards", str(data.shards[0]), "--out", str(out), "--device", "cpu"]) == 0
    assert any(out.iterdir())


def test_the_average_keeps_the_statistics(tmp_path):
    seed_everything(0)
    method, data = make("clip"), method_data(tmp_path, batch_size=4, image_size=SIDE)
    measured = statistics(method)
    trainer = Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[AverageWeights(0.5)],
    )  # fmt: skip
    trainer.fit(method, data)
    assert method.averaged is not None
    assert isinstance(method, ClipFinetune)
    kept = {name: buffer for name, buffer in method.averaged.image_tower.named_buffers() if "running" in name}
    torch.testing.assert_close(kept, measured, rtol=0, atol=0)


def test_pretrained_brings_its_own_image_tower(tmp_path):
    torch.manual_seed(0)
    DualEncoder(EFFICIENTNET).save(tmp_path, "open_clip")
    method = ClipFinetune(pretrained=str(tmp_path), encoder=EFFICIENTNET)
    assert method.encoder.config.image_tower == "timm/test_efficientnet"
    other = replace(EFFICIENTNET, image_tower="timm/test_resnet")
    with pytest.raises(
        ValueError, match=r"encoder.image_tower must be null where pretrained .* brings the image tower"
    ):
        ClipFinetune(pretrained=str(tmp_path), encoder=other)
    weights = replace(EFFICIENTNET, image_weights="pretrained")
    with pytest.raises(ValueError, match=r"encoder.image_weights must be null where pretrained"):
        ClipFinetune(pretrained=str(tmp_path), encoder=weights)


def test_frozen_stages_and_norms_that_alone_are_trained():
    """Stem and stages stay, what follows is trained; ``all_but_norms`` leaves batch norm's scale and shift."""
    blocks = len(make("clip").encoder.image_blocks())
    method = make("clip", freeze=FreezeConfig(image_tower=blocks))
    names = {name for name, p in method.encoder.image_tower.named_parameters() if p.requires_grad}
    assert names == {"trunk.conv_head.weight", "trunk.bn2.weight", "trunk.bn2.bias", "projection.weight"}
    method = make("clip", freeze=FreezeConfig(image_tower="all_but_norms"))
    layers = [m for m in method.encoder.image_tower.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    trained = {id(p) for p in method.encoder.image_tower.parameters() if p.requires_grad}
    assert trained == {id(p) for layer in layers for p in layer.parameters()}
    batch = torch.randn(2, 3, SIDE, SIDE)
    method.encoder.encode_image(batch).image.sum().backward()
    assert all(p.grad is not None for p in method.encoder.image_tower.parameters() if p.requires_grad)
