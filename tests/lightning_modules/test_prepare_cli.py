"""`lightning prepare`: the README's commands are commands, for every source; wrong ones end with one line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from datamodules.prepare import SOURCES
from lightning_modules.cli.main import main
from lightning_modules.cli.prepare import parser

README = (Path(__file__).resolve().parents[2] / "datamodules" / "README.md").read_text(encoding="utf-8")
PARSER = parser()
NAMES = [source.__name__.removeprefix("prepare_") for source in SOURCES]


def told() -> list[list[str]]:
    """The words behind `lightning prepare` in the README: its blocks, and its table of sources."""
    plain = README.replace("\\\n", " ")
    written = re.findall(r"^lightning prepare (.*?)(?:#.*)?$", plain, re.MULTILINE)
    rows = re.findall(rf"\| `((?:{'|'.join(NAMES)}) --.*?)` \|$", README, re.MULTILINE)
    return [shlex.split(text) for text in (*written, *(f"{row} --out shards" for row in rows))]


@pytest.mark.parametrize("words", told(), ids=" ".join)
def test_commands_of_the_readme(words):
    given = PARSER.parse_args(words)
    assert given.source == words[0]
    assert given[given.source].processes >= 1


def test_every_source_and_every_option_for_all_is_told():
    assert {words[0] for words in told()} == set(NAMES)
    options = set(re.findall(r"^\| `(--[a-z_]+) ", README, re.MULTILINE))
    own = PARSER.parse_args(["tars", "--data", "a", "--out", "b"]).tars
    assert {
        f"--{name}" for name in vars(own) if name not in ("config", "data", "out", "caption_field", "spacy_model")
    } <= options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["docci", "--images", "i", "--annotations", "a"], "out"),
        (["nothing"], "nothing"),
        (["tars", "--data", "none.tar", "--out", "o", "--extractor", "rules"], "does not exist"),
        (["tars", "--data", "a", "--out", "o", "--part", "3/2"], "part must be"),
        (["tars", "--data", "a", "--out", "o", "--part", "1/2", "--overwrite", "true"], "overwrite must be off"),
        (["tars", "--data", "a", "--out", "o", "--max_side", "31"], "max_side must be at least 32"),
    ],
)
def test_wrong_commands_end_with_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["prepare", *words])
    assert stop.value.code == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
