"""A user's own ``eval.py`` or ``losses/`` breaks neither the commands nor a notebook; one line says what hides what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.cli.doctor import names

ROOT = Path(__file__).resolve().parents[1]
THEIRS = "THEIRS = True\nraise SystemExit('the file of the user was run')\n"
HIDING = ("eval.py", "losses/__init__.py", "datamodules.py")


def write(folder: Path, *files: str, content: str = THEIRS) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def python(folder: Path, *words: str, before: bool = False, program: str = sys.executable):
    """Run a program in ``folder``; ``before``: the folder stands on PYTHONPATH, before ours."""
    path = [str(folder)] * before + [str(ROOT)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    environment |= {"PYTHONPATH": os.pathsep.join(path)}
    return subprocess.run([program, *words], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("before", [False, True])
def test_commands_do_not_mind(tmp_path, before):
    write(tmp_path, *HIDING)
    done = python(tmp_path, "-m", "lightning_modules", "index", "nowhere.tar", before=before)
    assert done.returncode == 2, done.stderr
    *told, last = done.stderr.splitlines()
    assert "the shard nowhere.tar does not exist" in last
    assert "the file of the user was run" not in done.stderr
    assert len(told) == (3 if before else 0)


@pytest.mark.slow
def test_a_training_beside_all_of_them_with_a_method_of_the_users(tmp_path):
    """The working folder is searched last: the user's own method is found, and none of their files hides a package."""
    write(tmp_path, *HIDING)
    method = "from lightning_modules import ClipFinetune\nclass Mine(ClipFinetune):\n    'Mine.'\n"
    (tmp_path / "mine.py").write_text(method)
    words = "fit --model mine.Mine --model.encoder.image_width 16 --model.encoder.image_layers 1 "
    words += "--model.encoder.image_heads 2 --model.encoder.text_width 16 --model.encoder.text_layers 1 "
    words += "--model.encoder.text_heads 2 --model.encoder.embed_dim 16 --data.scenes.train 16 --data.scenes.dev 8 "
    words += "--data.scenes.held_out 8 --data.batch_size 8 --data.num_workers 1 --trainer.max_steps 1 "
    words += "--images.every_n_steps 0 --diagnostics.every_n_steps 0 --trainer.accelerator cpu"
    os.environ["GRAINCLIP_CACHE"] = str(tmp_path / "cache")
    done = python(tmp_path, "-m", "lightning_modules", *words.split())
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs/mine/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("hidden", HIDING)
def test_python_and_notebooks_get_our_package_and_a_line(tmp_path, hidden):
    name = hidden.partition("/")[0].removesuffix(".py")
    code = f"import lightning_modules, {name}; print({name}.__file__)"
    done = python(write(tmp_path, hidden), "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / name / "__init__.py")
    (line,) = done.stderr.strip().splitlines()
    place = tmp_path / hidden
    assert line == f"`import {name}` is GrainCLIP's package here, not {place}: rename that file or folder to import it"


def test_a_package_imported_before_is_named(tmp_path):
    write(tmp_path, "eval.py", content="x = 1\n")
    done = python(tmp_path, "-c", "import eval, lightning_modules")
    last = done.stderr.strip().splitlines()[-1]
    place = tmp_path / "eval.py"
    assert last.startswith(f"ImportError: {place} is imported as 'eval' and hides GrainCLIP's package of that name")
    assert len(last) <= 200 + len(str(place))


def test_what_hides_nothing_is_not_told_of(tmp_path):
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "notes.txt").touch()
    done = python(tmp_path, "-c", "import lightning_modules, losses; print(losses.ClipLoss)")
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_the_doctor_says_so(tmp_path):
    (check,) = names(tmp_path)
    assert check.status == "ok"
    write(tmp_path, *HIDING)
    (check,) = names(tmp_path)
    assert check.status == "note"
    assert check.finding.startswith("datamodules.py, eval.py, losses/__init__.py in ")
    (check,) = names(ROOT)
    assert check.status == "ok"
