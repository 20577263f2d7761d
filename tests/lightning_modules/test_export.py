"""A run's checkpoint as a model that the real transformers and the real open_clip load."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass

import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPModel, CLIPProcessor

from datamodules.batching.image_transforms import normalise
from eval.data.image_preprocessing import centre_crop
from eval.protocols.embed import as_pixels
from lightning_modules import BetaClip, CropTarget, HarmoClip
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.checkpoints.model_card import model_card
from lightning_modules.cli.main import main
from lightning_modules.methods.beta_clip import GrainWeights
from lightning_modules.networks import DualEncoder, Encoder, EncoderConfig
from lightning_modules.networks.contract import plain_config
from tests.datamodules.test_atomic_write import full_disk
from tests.helpers.tiny import picture
from tests.helpers.tiny_methods import METHODS
from tests.helpers.tiny_run import fit


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(folder, epochs=1)
    return folder / "checkpoints" / "last.ckpt"


READ = """
import sys
from pathlib import Path
from lightning_modules.cli.read_checkpoint import read
from lightning_modules.runs.checkpoint import read_facts
for place in map(Path, sys.argv[1:]):
    assert read(place)["hyper_parameters"] and read_facts(place).step == 3, place
"""


@pytest.mark.slow
def test_a_new_process_reads_the_settings_of_every_method(tmp_path):
    """The command that reads a checkpoint has trained nothing: it must know the classes that stand in it by itself."""
    made = {name: make() for name, make in METHODS.items()}
    made["beta_weighted"] = METHODS["beta_ce"](grain_weights=GrainWeights(phrase=0.5))
    made["harmo_crops"] = METHODS["harmo"](region_losses=[CropTarget()])
    assert isinstance(made["harmo_crops"], HarmoClip)
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}}
    for name, method in made.items():
        saved = {KEY: {}, "global_step": 3, "loops": loops, "state_dict": {}, "hyper_parameters": dict(method.hparams)}
        torch.save(saved, tmp_path / f"{name}.ckpt")
    command = [sys.executable, "-c", READ, *map(str, sorted(tmp_path.glob("*.ckpt")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def pictures_and_captions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for i in range(6):
        file = folder / f"{i}.jpg"
        file.write_bytes(picture(i))
        found.append((file, f"picture {i}, a boat's lamp & two cats. " * (1 + 4 * i)))
    return found


@pytest.fixture
def photographs(shared):
    folder = shared / "data" / "coco_tiny"
    files = sorted((folder / "val2017").glob("*.jpg"))[:20]
    captions = json.loads(next((folder / "annotations").glob("captions_val*")).read_text())["annotations"]
    texts = {int(f.stem): " ".join(c["caption"] for c in captions if c["image_id"] == int(f.stem)) for f in files}
    return [(file, texts[int(file.stem)]) for file in files]


def ours(checkpoint, pixels, texts):
    model = BetaClip.load_from_checkpoint(checkpoint).eval()
    return model.encode_image(pixels), model.encode_text(texts)


def agree_transformers(checkpoint, folder, pairs):
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    images, texts = [Image.open(file).convert("RGB") for file, _ in pairs], [text for _, text in pairs]
    inputs = processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs)
    image, text = ours(checkpoint, inputs["pixel_values"], texts)
    torch.testing.assert_close(theirs.image_embeds, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs.text_embeds, text, rtol=0, atol=1e-5)


def agree_open_clip(checkpoint, folder, pairs):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pixels, texts = torch.stack([preprocess(Image.open(file)) for file, _ in pairs]), [text for _, text in pairs]
    with torch.no_grad():
        image, text = model.eval().encode_image(pixels), model.encode_text(tokenizer(texts))
    own_image, own_text = ours(checkpoint, pixels, texts)
    torch.testing.assert_close(functional.normalize(image, dim=-1), own_image, rtol=0, atol=1e-5)
    torch.testing.assert_close(functional.normalize(text, dim=-1), own_text, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_card_s_code_embeds_as_we_do_at_every_size(checkpoint, tmp_path):
    """Longer sides that exceed the square by 0 to 7 pixels: transformers' own crop is another at 3 and 7."""
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    side = BetaClip.load_from_checkpoint(checkpoint).encoder.config.image_size
    sizes = [(side + more, side) for more in range(8)] + [(side, side + more) for more in range(1, 8)]
    images = [Image.open(io.BytesIO(picture(n, *size, "PNG"))).convert("RGB") for n, size in enumerate(sizes)]
    names = {"FOLDER": str(tmp_path / "out"), "texts": ["a boat"] * len(images), "images": images}
    with torch.no_grad():
        exec(code, names)  # the card is what people copy
    squares = torch.stack([as_pixels(centre_crop(image, side)) for image in images])
    image, _ = ours(checkpoint, normalise(squares), ["a boat"])
    torch.testing.assert_close(names["outputs"].image_embeds, image, rtol=0, atol=1e-5)
    plain = names["processor"](images=images, return_tensors="pt")["pixel_values"]
    moved = [n for n, (a, b) in enumerate(zip(plain, normalise(squares), strict=True)) if (a - b).abs().max() > 0.05]
    assert [max(sizes[n]) - side for n in moved] == [3, 7, 3, 7]


def test_transformers_loads_an_export(checkpoint, pictures_and_captions, tmp_path):
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 0
    agree_transformers(checkpoint, tmp_path / "out", pictures_and_captions)


def test_open_clip_loads_an_export(checkpoint, pictures_and_captions, tmp_path):
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--format", "open_clip"]) == 0
    agree_open_clip(checkpoint, tmp_path / "out", pictures_and_captions)


def test_both_agree_on_real_photographs(checkpoint, photographs, tmp_path):
    assert len(photographs) == 20
    for format, agree in (("transformers", agree_transformers), ("open_clip", agree_open_clip)):
        assert main(["export", str(checkpoint), str(tmp_path / format), "--format", format]) == 0
        agree(checkpoint, tmp_path / format, photographs)


def test_the_card_tells_where_the_model_comes_from(checkpoint, tmp_path):
    main(["export", str(checkpoint), str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    for part in ("library_name: transformers", "BetaClip", '"beta": 0.5', '"context_length": 77', '"samples": 24',
                 "| caption · text to image |", "3 steps", "CLIPModel.from_pretrained"):  # fmt: skip
        assert part in card


def test_a_checkpoint_loads_without_its_settings_or_pretrained_weights(checkpoint):
    model = BetaClip.load_from_checkpoint(checkpoint)
    assert model.encoder.config.context_length == 77
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["pretrained"] is None
    assert saved["grainclip"]["numbers"]["caption/text_to_image/R@1"] >= 0


def test_refusals(checkpoint, tmp_path, capsys):
    def refused(source, folder):
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(source), str(folder)])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert "no such checkpoint" in refused(tmp_path / "none.ckpt", tmp_path / "out")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    assert "truncated or no checkpoint" in refused(tmp_path / "cut.ckpt", tmp_path / "out")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert "not written by GrainCLIP" in refused(tmp_path / "other.ckpt", tmp_path / "out")
    assert "is not empty" in refused(checkpoint, checkpoint.parent)


@pytest.mark.slow
def test_a_command_line_run_loads_from_its_checkpoint(tmp_path):
    """LightningCLI writes the settings in a form of its own."""
    import os
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    command = [
        sys.executable, "-m", "lightning_modules", "fit", "--config", str(root / "configs" / "beta_bce.yaml"),
        "--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false",
        "--data.scenes.train=32", "--data.scenes.dev=32", "--data.scenes.held_out=32",
        "--data.batch_size=8", "--data.num_workers=0",
    ]  # fmt: skip
    environment = os.environ | {"GRAINCLIP_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(root)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    last = tmp_path / "runs" / "beta_bce" / "checkpoints" / "last.ckpt"
    assert BetaClip.load_from_checkpoint(last).encoder.config.image_width == 128
    assert main(["export", str(last), str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(("format", "file"), [
    ("transformers", "model.safetensors"), ("open_clip", "open_clip_model.safetensors")
])  # fmt: skip
def test_weights_are_as_readable_as_any_new_file(checkpoint, tmp_path, format, file):
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--format", format]) == 0
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "out" / file).stat().st_mode == plain.stat().st_mode


def test_a_full_disk_is_told_in_one_line(checkpoint, tmp_path, capsys):
    with full_disk(), pytest.raises(SystemExit):
        main(["export", str(checkpoint), str(tmp_path / "out")])
    told = capsys.readouterr().err.strip()
    assert "File too large" in told
    assert told.endswith("out/model.safetensors'")
    assert "\n" not in told
    assert list((tmp_path / "out").iterdir()) == []


def test_the_card_of_a_family_from_elsewhere_has_no_code(monkeypatch):
    """Of a user's own family nobody knows which library loads its folders."""
    monkeypatch.setattr(Encoder, "families", list(Encoder.families))

    @dataclass(frozen=True)
    class Other(EncoderConfig):
        """Sizes of a family that is not of the package."""

    class OtherEncoder(DualEncoder):
        """It registers by being defined."""

        settings = Other

    origin = {"version": "1", "commit": "x", "method": "BetaClip", "steps": 3, "numbers": {}, "data": {}}
    card = model_card(origin | {"settings": {}, "encoder": plain_config(Other())}, "transformers")
    assert OtherEncoder in Encoder.families
    assert "plain Other's" in card
    assert "## Use" not in card
    assert "crop" not in card
