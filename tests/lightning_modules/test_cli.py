"""The command: every config as it stands, overlays and overrides, and one clear line for whatever is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_modules.cli.main import main
from tests.helpers.tiny import write_shards

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SHORT = [
    "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.scenes.train=64",
    "--data.scenes.dev=32", "--data.scenes.held_out=32", "--data.batch_size=8", "--data.val_batch_size=16",
    "--data.num_workers=0", "--images.every_n_steps=0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs and caches go to a temporary folder; the command line is restored."""
    monkeypatch.setenv("GRAINCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments: str) -> str:
    """The one line with which a command is refused."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.stem)
def test_every_config_trains(config, tmp_path):
    assert main(["fit", "--config", str(config), *SHORT]) == 0
    run = tmp_path / "runs" / config.stem
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "results.json").is_file()
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["batch_size"] == 8


def test_runs_that_cannot_be_written_stop_before_they_train(tmp_path, capsys):
    (tmp_path / "file").touch()
    message = refused(capsys, "fit", "--config", str(ROOT / "configs/clip.yaml"), *SHORT, "--runs=file")
    assert "file/clip cannot be written to: Not a directory; --runs FOLDER names another place" in message


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.stem)
def test_every_config_opens_with_its_story(config):
    header = "".join(line for line in config.read_text().splitlines(True) if line.startswith("#"))
    for word in ("arXiv", f"lightning fit --config configs/{config.name}", "Time", "Expected"):
        assert word in header


RECIPES = [
    p for p in sorted((ROOT / "configs/recipes").glob("*.yaml")) if p.stem not in ("ddp", "fsdp2", "lora", "lit")
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda c: c.stem)
def test_every_recipe_overlays_the_config_that_it_names(recipe, capsys):
    text = recipe.read_text()
    base = re.search(r"--config (configs/\w+\.yaml) --config configs/recipes/" + recipe.name, text)
    assert base is not None
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(ROOT / base[1]), "--config", str(recipe), "--print_config"])
    assert not stopped.value.code
    whole, recipe_alone = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(text)
    assert whole["name"] == recipe.stem
    start = whole["model"]["init_args"]["pretrained"] or whole["model"]["init_args"]["encoder"]["image_weights"]
    assert start.startswith(("pretrained", "openai/clip-vit-", "google/siglip2-", "open_clip:"))
    for name, value in recipe_alone["model"]["init_args"]["optim"].items():
        assert whole["model"]["init_args"]["optim"][name] == value
    for word in ("Hardware", "Time", "Expected"):
        assert f"# {word}" in text


@pytest.mark.parametrize(("recipe", "strategy"), [("ddp", "DDPStrategy"), ("fsdp2", "FullySharded")])
def test_recipes_for_many_gpus_go_on_top_of_any_config(recipe, strategy, capsys):
    files = ["configs/mulclip.yaml", "configs/recipes/mulclip_vitb16_docci.yaml", f"configs/recipes/{recipe}.yaml"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *(f"--config={ROOT / file}" for file in files), "--print_config"])
    assert not stopped.value.code
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert trainer["strategy"]["class_path"].endswith(strategy)
    assert trainer["strategy"]["init_args"]["timeout"] == "0:10:00"


@pytest.mark.parametrize("recipe", ["lora", "lit"])
def test_recipes_of_what_is_trained_go_on_top_of_any_config(recipe, capsys):
    files = ["configs/beta_ce.yaml", "configs/recipes/vitb16_sharegpt4v.yaml", f"configs/recipes/{recipe}.yaml"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *(f"--config={ROOT / file}" for file in files), "--print_config"])
    assert not stopped.value.code
    settings = yaml.safe_load(capsys.readouterr().out)
    model, text = settings["model"]["init_args"], (ROOT / files[-1]).read_text()
    assert settings["name"] == recipe
    assert model["optim"]["lr"] == 1e-5
    assert (model["lora"] or {}).get("rank") == (16 if recipe == "lora" else None)
    towers = {"image_tower": "none" if recipe == "lora" else "all", "text_tower": "none"}
    assert model["freeze"] == towers | {"feature_cache_gib": 0.0}
    for word in ("arXiv", f"--config configs/clip.yaml --config configs/recipes/{recipe}.yaml", "Memory", "Time"):
        assert word in text


def test_overlays_and_overrides(tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {beta: 0.25}}\ndata: {batch_size: 9}\n")
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "fit",
                "--config",
                str(ROOT / "configs/beta_bce.yaml"),
                "--config",
                str(overlay),
                "--data.batch_size",
                "7",
                "--model.init_args.encoder.image_size=32",
                "--print_config",
            ]
        )
    assert not stopped.value.code
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["beta"] == 0.25
    assert config["model"]["init_args"]["objective"] == "bce"
    assert config["data"]["batch_size"] == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model.init_args.beta=1.5"], "beta must lie in [0, 1], got 1.5"),
        (["--model.init_args.betta=0.5"], "betta"),
        (["--data.batchsize=8"], "batchsize"),
        (["--data.batch_size=many"], "batch_size"),
        (["--data.batch_size=0"], "data.batch_size must be at least 1, got 0"),
        (["--data.sampling.phrases=-1"], "phrases must be 0 or more, got -1"),
        (["--model.init_args.encoder.image_heads=3"], "image_width must be a multiple of image_heads"),
        (["--model.init_args.optim.lr=-1"], "optim.lr must be 0 or more, got -1"),
        (["--model.init_args.objective=mse"], "objective"),
        (["--data.shards=nowhere/*.tar"], "no file matches 'nowhere/*.tar'"),
        (["--data.shards=nowhere.tar"], "nowhere.tar does not exist"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_settings_stop_with_one_line(capsys, arguments, says):
    assert says in refused(capsys, "fit", "--config", str(ROOT / "configs/beta_bce.yaml"), *arguments)


def test_a_cut_tar_stops_before_training(tmp_path, capsys):
    path = write_shards(tmp_path / "shards", 6, 1)[0]
    path.write_bytes(path.read_bytes()[:5000])
    line = refused(capsys, "fit", "--config", str(ROOT / "configs/clip.yaml"), f"--data.shards={path}")
    assert "train-000.tar" in line
    assert "copy it again" in line


def test_too_few_samples(tmp_path, capsys):
    path = write_shards(tmp_path / "shards", 6, 1)[0]
    line = refused(capsys, "fit", "--config", str(ROOT / "configs/clip.yaml"), f"--data.shards={path}")
    assert "6 training samples do not fill one batch" in line


def test_a_training_without_an_end(capsys):
    line = refused(
        capsys, "fit", "--config", str(ROOT / "configs/clip.yaml"), *SHORT, "--trainer.max_epochs=-1"
    )  # fmt: skip
    assert "trainer.max_epochs or trainer.max_steps must say where training ends" in line


def test_a_method_that_lies_in_the_working_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(tmp_path))])
    (tmp_path / "mymethod.py").write_text("from lightning_modules import BetaClip\n\nclass MyBeta(BetaClip): pass\n")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(ROOT / "configs/clip.yaml"), "--model", "mymethod.MyBeta", "--print_config"])
    assert not stopped.value.code
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"] == "mymethod.MyBeta"


def test_an_unknown_command(capsys):
    assert main(["trian"]) == 2
    assert "no command 'trian'; did you mean fit?" in capsys.readouterr().err


def test_help_is_at_hand(capsys):
    assert main(["--help"]) == 0
    assert "fit" in capsys.readouterr().out


def test_the_program_under_all_its_names():
    """The console scripts and the module are one program, and their help does not wait for torch."""
    scripts = Path(sys.executable).parent
    names = [[sys.executable, "-m", "lightning_modules"]]
    names += [[str(scripts / n)] for n in ("lightning", "grainclip") if (scripts / n).exists()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in names:
        shown = subprocess.run([*name, "--help"], capture_output=True, text=True, check=True, env=environment)
        assert "lightning fit --config" in shown.stdout
    code = "import sys; from lightning_modules.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0
