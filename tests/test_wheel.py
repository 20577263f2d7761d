"""A wheel holds what the commands need, configs included, and works outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lightning_modules.cli.config_files import PLACE, with_shipped_configs

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files, unpacked."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("lightning_modules", "datamodules", "losses", "eval", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("grainclip-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_it_holds_every_module_and_config(installed):
    pages = ("eval/drawing/*.html", "datamodules/shards/*.html", "*/py.typed", "configs/schemas/*.json")
    pages += ("configs/notebooks/*.ipynb", "configs/weights/*/*")
    for pattern in ("**/*.py", "configs/*.yaml", "configs/recipes/*.yaml", "configs/slurm/*.sbatch", *pages):
        folders = ("lightning_modules", "datamodules", "losses", "eval") if pattern == "**/*.py" else (".",)
        wanted = {str(f.relative_to(ROOT)) for folder in folders for f in (ROOT / folder).glob(pattern)}
        assert wanted
        assert wanted <= {str(f.relative_to(installed)) for f in installed.rglob("*") if f.is_file()}
    assert not (installed / "tests").exists()


@pytest.mark.slow
def test_its_commands_work_in_another_folder(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "GRAINCLIP_CACHE": str(tmp_path / "cache")}

    def run(*words):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import losses; print(losses.__file__)").startswith(str(installed))
    quick = (
        "--data.scenes.train",
        "16",
        "--data.scenes.dev",
        "8",
        "--data.scenes.held_out",
        "8",
        "--data.batch_size",
        "8",
        "--data.num_workers",
        "0",
    )
    run("-m", "lightning_modules", "fit", "--config", "configs/clip.yaml", *quick, "--trainer.max_steps", "1",
        "--images.every_n_steps", "0", "--diagnostics.every_n_steps", "0")  # fmt: skip
    run("-m", "lightning_modules", "export", "runs/clip/checkpoints/last.ckpt", "model")
    assert (tmp_path / "model/model.safetensors").is_file()


def test_configs_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place/configs").mkdir(parents=True)
    (tmp_path / "place/configs/a.yaml").touch()
    place, there = tmp_path / "place", str(tmp_path / "place/configs/a.yaml")
    recipe = str(place / "configs/recipes/r.yaml")
    given = ["fit", "--config", "configs/a.yaml", "--config=configs/a.yaml", "--x", "configs/a.yaml", "--config"]
    assert with_shipped_configs(given, place) == ["fit", "--config", there, f"--config={there}", *given[4:]]
    (place / "configs/recipes").mkdir()
    (place / "configs/recipes/r.yaml").touch()
    assert with_shipped_configs(["--config", "a", "--config=r"], place) == ["--config", there, f"--config={recipe}"]
    assert with_shipped_configs(["--config", "recipes/r"], place) == ["--config", recipe]
    for other in ("configs/b.yaml", "b.yaml", "configs/../configs/a.yaml", "b", "other/a", "", "/a"):
        assert with_shipped_configs(["--config", other], place) == ["--config", other]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/a.yaml").touch()
    (tmp_path / "r").mkdir()
    (tmp_path / "a").touch()
    assert with_shipped_configs(["--config", "r"], place) == ["--config", recipe]
    assert with_shipped_configs(["--config", "a"], place) == ["--config", "a"]
    assert with_shipped_configs(given, place) == given
    assert (PLACE / "configs/clip.yaml").is_file()
