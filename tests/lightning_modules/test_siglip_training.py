"""Every method trains a SigLIP by its own loss; the commands take it, and its checkpoints need no other file."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentError
from lightning import seed_everything
from PIL import Image
from torch.nn import functional

from datamodules.batch import Grain
from datamodules.batching.image_transforms import normalise
from datamodules.batching.stored_tokens import with_tokens
from eval.data.image_preprocessing import squash_bilinear
from eval.protocols.embed import as_pixels
from lightning_modules import ClipFinetune, GrainClip, HarmoClip, MulClip, OptimConfig
from lightning_modules.checkpoints.instantiate import instantiate
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.cli.main import main
from lightning_modules.methods.optimizers import clamp_temperatures
from lightning_modules.networks import SiglipEncoder, SiglipSettings
from losses import SigmoidLoss
from tests.eval.official import write_coco
from tests.helpers.ranks import run_on_ranks
from tests.helpers.small_siglip import write_siglip
from tests.helpers.tiny import make_sample, picture, write_shards, write_tar
from tests.helpers.tiny_methods import METHODS, method_data
from tests.helpers.tiny_run import TINY, assert_caching_changes_nothing, fit_method
from tests.lightning_modules.ranked_run import Spec, train, train_all, write_uneven
from tests.lightning_modules.test_ranks_alike import check_alike

pytestmark = pytest.mark.filterwarnings("ignore")
HALF = (0.5, 0.5, 0.5)
OPTIM = OptimConfig(lr=1e-3, warmup_steps=0)
NORM = "encoder.text_tower.transformer.final_layer_norm.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint of SigLIP 2."""
    return write_siglip(tmp_path_factory.mktemp("siglip2"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(folder, tmp_path, name):
    seed_everything(0, verbose=False)
    method = METHODS[name](pretrained=str(folder), optim=OPTIM)
    assert isinstance(method.encoder, SiglipEncoder)
    assert type(method.clip) is SigmoidLoss
    assert method.logit_bias is None  # the checkpoint's
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    data = method_data(tmp_path / "data", batch_size=4)
    scalars = fit_method(tmp_path, method, data, 1)
    assert len(scalars["train/loss"]) == 3
    assert all(torch.tensor(values).isfinite().all() for values in scalars.values())
    assert data.input_format.tokenizer is method.encoder.tokenizer
    assert data.input_format.mean == (0.5, 0.5, 0.5)
    for key in (NORM, "encoder.image_tower.transformer.head.probe", "encoder.bias.logit_bias"):
        assert not torch.equal(method.state_dict()[key], before[key]), key
    frozen = "encoder.text_tower.transformer.embeddings.position_embedding.frozen"
    assert torch.equal(method.state_dict()[frozen], before[frozen])
    assert scalars["logit_scale/global"][-1] > 110  # CLIP's bound is 100


def test_other_temperatures_start_at_the_checkpoint_s_and_stay_there(folder):
    """Above CLIP's bound, as SigLIP's own has none."""
    source = {"encoder": TINY, "pretrained": str(folder)}
    harmo, grain = HarmoClip(**source), GrainClip(**source)
    mul = MulClip(subcaption_temperature="own", **source)
    for method, temperature in (
        (harmo, harmo.temperature), (grain, grain.region_temperature), (mul, mul.temperature)
    ):  # fmt: skip
        assert temperature is not None
        clamp_temperatures(method)
        torch.testing.assert_close(temperature(), method.encoder.logit_scale)
        assert temperature() > 110
    hot = HarmoClip(temperature=300.0, **source)
    assert hot.region_scale().item() == pytest.approx(300.0)


def test_the_loss_has_the_checkpoint_s_bias(folder, tmp_path):
    """Without it the loss of a batch is another by far."""
    method, data = ClipFinetune(encoder=TINY, pretrained=str(folder)), method_data(tmp_path)
    data.input_format = method.encoder.input_format
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    features = method.features(batch)
    texts = features.texts_at(batch.grains[Grain.CAPTION])[:, 0]
    cosines = 117.919 * features.images.image @ texts.T
    signs = 2 * torch.eye(6) - 1
    wanted, unbiased = (-functional.logsigmoid(signs * (cosines + bias)).sum() / 6 for bias in (-12.9, 0.0))
    torch.testing.assert_close(method.losses(batch, features)["global"], wanted, rtol=1e-4, atol=1e-4)
    assert (unbiased - wanted).abs() > 1


def test_gradient_caching_changes_nothing(folder, tmp_path):
    data = method_data(tmp_path)

    def make():
        method = METHODS["mul"](pretrained=str(folder)).double()
        method.encoder.set_grad_checkpointing(True)
        return method

    data.input_format = make().encoder.input_format
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    torch.manual_seed(0)
    state = make().state_dict()

    def same():
        method = make()
        method.load_state_dict(state)
        return method

    assert_caching_changes_nothing(same, batch._replace(images=batch.images.double()))


@pytest.mark.slow
def test_two_ranks_are_one(folder, tmp_path):
    """DDP with compiled blocks, FSDP2, and FSDP2 with gradient caching and recomputed blocks."""
    shards = write_uneven(tmp_path)
    common = {"steps": 4, "pretrained": str(folder)}
    specs = [
        Spec("beta_clip", "ddp", compiled=True, **common),
        Spec("grain_clip", "sharded", **common),
        Spec("mul_clip", "whole", grad_cache_chunk=3, recompute=True, **common),
    ]
    ranks = run_on_ranks(train_all, 2, specs, shards)
    for number, spec in enumerate(specs):
        alone = train(replace(spec, strategy="ddp", compiled=False), shards, 1)
        check_alike([rank[number] for rank in ranks], alone)
        start = train(replace(spec, strategy="ddp", compiled=False, steps=0), shards, 1)
        assert (alone.weights[NORM] - start.weights[NORM]).abs().max() > 1e-4


def run(folder: Path, shards: Path, *more: str) -> int:
    arguments = [
        "--config", str(Path(__file__).resolve().parents[2] / "configs/clip.yaml"), "--model.pretrained", str(folder),
        "--model.encoder.image_size", "16", "--model.encoder.context_length", "96", "--model.optim.lr", "1e-3",
        "--data.shards", str(shards), "--data.batch_size", "4", "--data.num_workers", "0", "--trainer.accelerator",
        "cpu", "--trainer.enable_progress_bar", "false", "--images.every_n_steps", "0", "--diagnostics.every_n_steps",
        "0", "--trainer.precision", "32-true",
    ]  # fmt: skip
    return main(["fit", *arguments, *more])


@pytest.mark.slow
def test_the_commands(tmp_path, monkeypatch, capsys):
    """Train, go on, and then without the folder that the run started from: load, export, evaluate, predict, explain."""
    monkeypatch.chdir(tmp_path)
    source, shards = write_siglip(tmp_path / "source"), tmp_path / "shards"
    write_shards(shards, 16, 2)
    assert run(source, shards, "--trainer.max_steps", "2") == 0
    assert run(source, shards, "--trainer.max_steps", "4") == 0
    checkpoint = tmp_path / "runs/clip/checkpoints/last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["global_step"] == 4
    shutil.rmtree(source)

    method = ClipFinetune.load_from_checkpoint(checkpoint).eval()
    assert isinstance(method.encoder.config, SiglipSettings)
    assert (method.optim.lr, method.encoder.context_length) == (1e-3, 96)
    with pytest.raises(
        ArgumentError, match="does not correspond to a subclass of ClipFinetune"
    ):  # whatever a checkpoint says
        instantiate(ClipFinetune, {"_class_path": "torch.nn.Flatten", "encoder": saved[KEY]["encoder"]})
    texts = ["A RED cube!", "It lies here. " * 40]
    images = [Image.open(io.BytesIO(picture(n, 40, 30 + n, "PNG"))).convert("RGB") for n in range(2)]
    squares = normalise(torch.stack([as_pixels(squash_bilinear(image, 16)) for image in images]), HALF, HALF)

    with pytest.raises(SystemExit):
        main(["export", str(checkpoint), "exported", "--format", "open_clip"])
    assert "--format must be transformers for a model of SiglipEncoder's family" in capsys.readouterr().err
    assert not Path("exported").exists()
    assert main(["export", str(checkpoint), "exported"]) == 0
    card = (tmp_path / "exported/README.md").read_text()
    assert "plain SigLIP's" in card
    assert len(card) < 20_000  # of the tokenizer a digest
    names = {"FOLDER": "exported", "texts": texts, "images": images}
    with torch.no_grad():
        exec(card.split("```python\n")[1].split("```")[0], names)  # the card is what people copy
    torch.testing.assert_close(names["outputs"].text_embeds, method.encode_text(texts), rtol=0, atol=1e-5)
    pixels = names["inputs"]["pixel_values"]
    torch.testing.assert_close(names["outputs"].image_embeds, method.encode_image(pixels), rtol=0, atol=1e-5)
    assert (
        pixels - squares
    ).abs().mean() < 0.02  # as the card says; torchvision's filter rounds another way than PIL's

    root = tmp_path / "COCO"
    write_coco(root)
    (tmp_path / "cat.png").write_bytes(picture(1, format="PNG"))
    capsys.readouterr()
    shown = []
    for model in (str(checkpoint), "exported"):
        device = ["--model", model, "--device", "cpu"]
        assert main(["evaluate", *device, "--benchmark", "coco_boxes", "--root", str(root)]) == 0
        shown.append([word for word in capsys.readouterr().out.split() if word.replace(".", "").isdigit()])
        assert main(["predict", *device, "--shards", str(shards), "--out", f"vectors-{Path(model).stem}"]) == 0
        assert main(["explain", *device, "--image", "cat.png", "--text", "a red cube", "--out", "cat.html"]) == 0
        capsys.readouterr()
    assert shown[0] == shown[1]


@pytest.mark.slow
def test_what_the_command_refuses(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shards = write_tar(tmp_path / "train-000.tar", [with_tokens(make_sample(number)) for number in range(8)])
    for more, says in (
        (("--model.encoder.context_length", "20"), "encoder.context_length must be at least 64"),
        (("--model.encoder.image_size", "32"), "encoder.image_size must be 16"),
        ((), "train-000.tar: its stored token ids are CLIP's and the model has another tokenizer"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(folder, shards, "--trainer.max_steps", "1", *more)
        assert stopped.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if says in line]
        assert len(lines) == 1, more
