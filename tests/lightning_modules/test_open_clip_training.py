"""open_clip's models in training: every method, ranks, the commands, and a checkpoint without the first folder."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial

import numpy as np
import open_clip
import pytest
import torch
import torch.distributed as dist
from lightning import Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from datamodules import GrainSampling, GranularityData, Squash
from datamodules.batching.region_sampling import RegionSampling
from lightning_modules import (
    BetaClip,
    ClipFinetune,
    GrainClip,
    HarmoClip,
    MulClip,
    MultiPositiveClip,
    OptimConfig,
)
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.cli.main import main
from lightning_modules.distributed.fsdp2 import FullySharded
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.networks import EncoderConfig, OpenClipEncoder, load_encoder
from losses import SigmoidLoss
from tests.helpers.ranks import run_on_ranks
from tests.helpers.small_open_clip import MODELS, PIXELS, write_model
from tests.helpers.tiny import make_sample, picture
from tests.helpers.tiny_methods import AS_PUBLISHED
from tests.helpers.tiny_regions import write_regions

METHODS = {
    "clip": ClipFinetune,
    "multi_positive": MultiPositiveClip,
    "beta": lambda **more: BetaClip("ce", pooling_heads=2, **more),
    "mul": partial(MulClip, **AS_PUBLISHED),
    "harmo": partial(HarmoClip, lexeme="mean"),
    "grain": lambda **more: GrainClip(pooling_heads=2, **more),
}
WITHOUT_PATCHES = ("clip", "multi_positive")
OPTIM = OptimConfig(lr=3e-3, eps=1e-3, warmup_steps=1)


def regions_data(shards, side, batch_size=6, workers=0):
    return GranularityData(
        shards, shards, batch_size=batch_size, val_batch_size=6, num_workers=workers, image_size=side,
        sampling=GrainSampling(2, 3, summaries=1), regions=RegionSampling(crops=1), train_transform=Squash(),
        batches_per_epoch=3,
    )  # fmt: skip


def side_of(name):
    return MODELS[name]["vision_cfg"]["image_size"]


def start(name, folder, method, **settings):
    return METHODS[method](
        encoder=EncoderConfig(image_size=side_of(name)), pretrained=str(folder), optim=OPTIM, **settings
    )


def trainer(steps=3, **settings):
    return Trainer(**{
        "max_steps": steps, "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "num_sanity_val_steps": 0,
        "use_distributed_sampler": False, "log_every_n_steps": 1,
    } | settings)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            write_model(made[name], name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_regions(tmp_path_factory.mktemp("shards"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [
    *(("convnext", method) for method in METHODS), *(("clipa", method) for method in ("beta", "mul", "harmo")),
    ("two_tokens", "clip"), ("roberta", "mul"), ("coca", "harmo"), ("batch_norm", "grain"), ("bias", "multi_positive"),
])  # fmt: skip
def test_every_method_trains(folders, shards, name, method):
    seed_everything(1)
    model = start(name, folders(name), method)
    before = {n: p.detach().clone() for n, p in model.encoder.named_parameters()}
    run = trainer()
    run.fit(model, regions_data(shards, side_of(name)))
    assert run.callback_metrics["train/loss"].isfinite()
    moved = [n for n, p in model.encoder.named_parameters() if not torch.equal(p, before[n])]
    assert any(n.startswith("image_tower") for n in moved)
    assert any(n.startswith("text_tower") for n in moved)
    assert run.callback_metrics["val/caption/text_to_image/R@1"] >= 0
    assert isinstance(run.datamodule.input_format.tokenizer, type(model.encoder.tokenizer))
    assert run.datamodule.input_format.mean == tuple(PIXELS["mean"])
    assert isinstance(model.clip, SigmoidLoss) == (name == "bias")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in WITHOUT_PATCHES])
def test_methods_that_need_patches_say_so(folders, method):
    with pytest.raises(ValueError, match=r"Clip compares texts with patches, and the image tower of .* gives none"):
        start("two_tokens", folders("two_tokens"), method)


def test_parts_give_the_whole_batch_s_gradients(folders, shards):
    """Also with batch norms, whose own statistics would be those of a part."""
    for name in ("batch_norm", "clipa"):
        gradients, folder = [], folders(name)  # made at random, so before the seed
        for part in (None, 2):
            seed_everything(1)
            model = start(name, folder, "beta", memory=MemoryConfig(grad_cache_chunk=part)).double()
            module = regions_data(shards, side_of(name))
            module.trainer = trainer()
            module.trainer.strategy.connect(model)
            module.setup("fit")
            batch = module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)
            batch = batch._replace(images=batch.images.double())
            torch.stack(list(model.losses(batch, model.features(batch)).values())).sum().backward()
            gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-11)


RANKED = {"convnext": "harmo", "attentional": "mul", "siglip": "grain", "batch_norm": "clip"}


def trained(folder, name, shards, ranks, sharded):
    """Losses and weights after three steps of a global batch of 4."""
    seed_everything(5)
    strategy = "auto"
    if ranks > 1:
        gloo = {"process_group_backend": "gloo"}
        strategy = FullySharded("whole", **gloo) if sharded else DDPStrategy(**gloo)
    model = start(name, folder, RANKED[name])
    run = trainer(devices=ranks, strategy=strategy, deterministic=True, limit_val_batches=0)
    run.fit(model, regions_data(shards, side_of(name), batch_size=4 // ranks))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options) if sharded else model.state_dict()
    return {n: w.detach().clone() for n, w in weights.items()}


def trained_on_ranks(jobs, shards):
    rank, world = dist.get_rank(), dist.get_world_size()
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT="0", LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
    return [trained(folder, name, shards, world, sharded) for folder, name in jobs for sharded in (False, True)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_learn_what_one_learns(folders, shards):
    """DDP and FSDP2: a CNN with norms, attentional pooling, a SigLIP with transformers' tokenizer, and batch norms."""
    jobs = [(str(folders(name)), name) for name in RANKED]
    first, second = run_on_ranks(trained_on_ranks, 2, jobs, shards)
    for number, (folder, name) in enumerate(jobs):
        alone = trained(folder, name, shards, 1, False)
        for kind, weights in zip(("ddp", "fsdp2"), first[2 * number : 2 * number + 2], strict=True):
            assert weights.keys() == alone.keys()
            for key, weight in weights.items():
                place = f"{name} {kind} {key}"
                assert (weight - alone[key]).abs().max() <= 2e-6 + 1e-4 * alone[key].abs().max(), place
    assert not second[1]  # whole weights go to the first rank alone


@pytest.fixture(scope="module")
def run_folder(folders, tmp_path_factory):
    """A run of the command from a SigLIP of open_clip's, whose folder is gone."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(folders("siglip"), folder / "model")
    write_regions(folder)
    command = [
        "fit", "--model", "HarmoClip", "--model.pretrained", str(folder / "model"), "--model.encoder.image_size", "160",
        "--data.shards", str(folder / "train-000.tar"), "--data.val_shards", str(folder / "train-000.tar"),
        "--data.batch_size", "4", "--data.num_workers", "1", "--data.sampling", "{sentences: 0, phrases: 4}",
        "--data.regions.crops", "1", "--trainer.max_steps", "2", "--trainer.accelerator", "cpu",
        "--trainer.precision", "32-true", "--trainer.log_every_n_steps", "1", "--runs", str(folder / "runs"),
        "--name", "siglip", "--images.every_n_steps", "1",
    ]  # fmt: skip
    assert main(command) == 0
    shutil.rmtree(folder / "model")
    return folder


@pytest.mark.slow
def test_a_run_by_the_command_and_its_export(run_folder, tmp_path, capsys):
    checkpoint = run_folder / "runs" / "siglip" / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved[KEY]["encoder"]["family"] == "OpenClipConfig"
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 0
    encoder = load_encoder(tmp_path / "out").eval()
    assert isinstance(encoder, OpenClipEncoder)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# HarmoClip, 160 px, 24 tokens" in card
    assert "library_name: open_clip" in card
    assert "sha256" in card  # in place of the tokenizer's files
    picture_ = Image.new("RGB", (200, 100), (200, 30, 40))
    names = {"FOLDER": str(tmp_path / "out"), "texts": ["a boat", "A café!"], "picture": picture_}
    with torch.no_grad():
        exec(card.split("```python\n")[1].split("```")[0], names)  # the card is what people copy
        image = encoder.encode_image(names["preprocess"](picture_)[None]).image
    torch.testing.assert_close(names["image"], image, rtol=0, atol=1e-5)
    method = HarmoClip.load_from_checkpoint(checkpoint).eval()
    torch.testing.assert_close(method.encode_text(names["texts"]), names["text"], rtol=0, atol=1e-5)
    with pytest.raises(SystemExit):
        main(["export", str(checkpoint), str(tmp_path / "other"), "--format", "transformers"])
    assert "--format must be open_clip for a model of OpenClipEncoder's family" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_the_other_commands_read_it(run_folder, tmp_path, capsys):
    checkpoint = run_folder / "runs" / "siglip" / "checkpoints" / "last.ckpt"
    (tmp_path / "a.jpg").write_bytes(picture(1, 60, 40))
    page, shards = tmp_path / "page.html", run_folder / "train-000.tar"
    assert main(["explain", "--model", str(checkpoint), "--image", str(tmp_path / "a.jpg"), "--text", "a boat",
                 "--out", str(page), "--device", "cpu"]) == 0  # fmt: skip
    assert "its peak" in page.read_text(encoding="utf-8")
    assert main(["predict", "--model", str(checkpoint), "--shards", str(shards), "--out", str(tmp_path / "out"),
                 "--device", "cpu"]) == 0  # fmt: skip
    assert np.load(tmp_path / "out" / "caption.npy").shape == (12, 96)
    numbers = tmp_path / "numbers.json"
    (tmp_path / "pairs.csv").write_text("image,caption\na.jpg,a boat\n")
    assert main(["evaluate", "--model", str(checkpoint), "--benchmark", f"retrieval:{tmp_path / 'pairs.csv'}",
                 "--root", str(tmp_path), "--out", str(numbers), "--device", "cpu",
                 "--bootstrap", "0"]) == 0  # fmt: skip
    assert "sha256" in json.loads(numbers.read_text())["settings"]["model"]["encoder"]["tokenizer_files"]
    capsys.readouterr()


def test_explain_says_that_there_are_no_patches(folders, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(picture(1, 60, 40))
    with pytest.raises(SystemExit):
        main(["explain", "--model", str(folders("two_tokens")), "--image", str(tmp_path / "a.jpg"), "--text", "a boat",
              "--out", str(tmp_path / "page.html"), "--device", "cpu"])  # fmt: skip
    assert "this needs patch features, and the image tower of --model gives none" in capsys.readouterr().err


def test_worker_processes_tokenise_for_the_model(folders, shards):
    """Of the caption's tokens, by open_clip's own tokenizer and by one of transformers'."""
    for name in ("bias", "clipa"):
        module = regions_data(shards, side_of(name), workers=1)
        module.trainer = trainer()
        module.trainer.strategy.connect(start(name, folders(name), "clip"))
        module.setup("fit")
        batch = next(iter(module.train_dataloader()))
        first, last = batch.texts.offsets[:2].tolist()
        caption = batch.texts.tokens[first:last].tolist()
        theirs = open_clip.get_tokenizer(f"local-dir:{folders(name)}")
        keys = {make_sample(number).key: number for number in range(12)}
        text = make_sample(keys[batch.keys[0].rpartition("/")[2]]).caption
        assert theirs(text)[0, : last - first].tolist() == [0 if name == "clipa" and i == 3 else i for i in caption]
