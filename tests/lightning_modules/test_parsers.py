"""The small commands' words: help without torch, one line for each mistake, lists that agree with what they name."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from eval.benchmarks.catalogue import BENCHMARKS, benchmark
from eval.data.caption_preprocessing import WORDINGS
from eval.data.image_preprocessing import FITS
from lightning_modules.cli import parsers
from lightning_modules.cli.main import COMMANDS, main, underscored

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = """
import contextlib, io, sys
from lightning_modules.cli.main import COMMANDS, main
for words in [["--help"], ["--version"], ["trian"], *([name, "--help"] for name in COMMANDS), ["evaluate"],
              ["fit", "--help"], ["evaluate", "--model", "a", "--benchmark", "coco_boxs", "--root", "."],
              ["export", "a"], ["prepare"], ["prepare", "--help"], ["prepare", "table", "--help"],
              ["prepare", "table"]]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(words)
        except SystemExit:
            pass
    late = {"torch", "transformers", "lightning"} & set(sys.modules)
    assert not late, (words, late)
"""


def refused(capsys, *words: str) -> str:
    """The one line with which a command is refused."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert len(lines[0]) <= 200
    return lines[0]


def test_help_and_mistakes_do_not_wait_for_torch():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_choices_agree_with_what_they_name():
    assert tuple(fit.__name__ for fit in FITS) == parsers.FITS
    assert tuple(wording.__name__ for wording in WORDINGS) == parsers.WORDINGS


ON_A_PATH = ("retrieval:a.csv", "fgovd:a.json", "folder:a", "wds:a", "oracle:a", "shards:a", "himo:a")


@pytest.mark.parametrize("name", [*BENCHMARKS, *ON_A_PATH])
def test_every_benchmark_is_found_by_its_name(name):
    assert benchmark(name).__name__.startswith(name.partition(":")[0])
    assert ":" in name or benchmark(name).__name__ == name


EVALUATE = ("evaluate", "--model", "m.ckpt", "--root", ".")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*EVALUATE, "--benchmark", "coco_val201"), "no benchmark 'coco_val201'; did you mean coco_val2017?"),
        ((*EVALUATE, "--benchmark", "nothing_like_it"), "`lightning evaluate --help` lists them"),
        ((*EVALUATE, "--benchmark", ","), "--benchmark must be one or more names parted by commas, got ','"),
        ((*EVALUATE, "--benchmark", "iiw,iiw"), "--benchmark must name each once, got 'iiw' twice"),
        ((*EVALUATE, "--benchmark", "retrieval:"), "retrieval: needs a path behind the colon"),
        ((*EVALUATE, "--benchmark", "retreival:a.csv"), "KIND of retrieval, fgovd"),
        ((*EVALUATE, "--benchmark", "iiw", "--fit", "squish"), "got 'squish'; did you mean squash?"),
        ((*EVALUATE, "--benchmark", "iiw", "--batch_size", "0"), "--batch_size must be a whole number of at least 1"),
        ((*EVALUATE, "--bencmark", "iiw"), "lightning evaluate has no --bencmark; did you mean --benchmark?"),
        (EVALUATE, "lightning evaluate needs --benchmark; `lightning evaluate --help`"),
        (("evaluate", "--model"), "--model needs a value"),
        (("predict", "--kinds", "image,captoin"), "got 'captoin'; did you mean caption?"),
        (("index",), "lightning index needs shards"),
        (("export", "--model", "a", "b"), "has no --model; it is `lightning export CHECKPOINT FOLDER [--OPTION ...]`"),
        (("doctor", "shards"), "does not know what 'shards' is for"),
    ],
)
def test_mistakes_in_the_words(words, says, capsys):
    assert says in refused(capsys, *words)


def test_blanks_around_commas_do_not_count():
    given = parsers.evaluate().parse([*EVALUATE[1:], "--benchmark", " coco_val2017, coco_boxes ,"])
    assert given.benchmark == ["coco_val2017", "coco_boxes"]
    assert parsers.predict().parse(["--model=m", "--shards=s", "--out=o"]).kinds == ["image", "caption"]


def test_either_dash_is_understood(capsys):
    assert underscored("--batch-size=a-b") == "--batch_size=a-b"
    assert underscored("--data.batch-size") == "--data.batch_size"
    assert [underscored(word) for word in ("-h", "--", "a-b", "-1", "")] == ["-h", "--", "a-b", "-1", ""]
    assert "--skip_missing" in refused(capsys, *EVALUATE, "--benchmark=iiw", "--skip-missin")


def test_commands(capsys):
    assert main(["evalute"]) == 2
    assert "no command 'evalute'; did you mean evaluate?" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"grainclip {version('grainclip')}\n"
    assert all(callable(vars(parsers)[name]) for name in COMMANDS)
