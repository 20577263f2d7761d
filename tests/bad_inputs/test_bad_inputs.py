"""Whatever is wrong with a command: one line that says what, exit status 2, nothing written, no traceback."""

from __future__ import annotations

import contextlib
import io
import logging
import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import constants

from lightning_modules.cli.main import main
from tests.bad_inputs.stage import write_stage

MEASURE = "--device cpu --batch_size 8 --bootstrap 10"
SHORT = {
    "FIT": "fit --config tiny.yaml",
    "EVAL": f"evaluate --model run.ckpt --benchmark urban1k --root DATA {MEASURE}",
    "PREDICT": "predict --model run.ckpt --shards shards --out out --device cpu",
    "EXPLAIN": 'explain --model run.ckpt --image cat.jpg --text "a cat" --out out.html --device cpu',
}
TABLE = Path(__file__).with_name("table.txt")


class Row(NamedTuple):
    """A command that must be refused, and words of the line that says why."""

    kind: str
    command: str
    says: str
    quick: bool

    @property
    def words(self) -> list[str]:
        """The command's words; a flag of the row stands in place of the same one of the command in short."""
        first, _, rest = self.command.partition(" ")
        given = shlex.split(rest)
        if first not in SHORT:
            return [first, *given]
        command, *pairs = shlex.split(SHORT[first])
        own = {word for word in given if word.startswith("--")} - {"--config"}
        kept = [word for pair in zip(pairs[::2], pairs[1::2], strict=True) if pair[0] not in own for word in pair]
        return [command, *kept, *given]


def rows() -> Iterator[Row]:
    """The table."""
    kind = ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif " | " in line and not line.startswith("#"):
            command, _, says = line.partition(" | ")
            yield Row(kind, command.removeprefix("* "), says, line.startswith("* "))


ROWS = list(rows())


def refusal(row: Row, folder: Path) -> str:
    """The fault in a row's refusal; "" where there is none."""
    before = _files(folder)
    code, err = run(row.words)
    lines = [line for line in err.splitlines() if line.startswith("lightning: error: ")]
    if code != 2 or "Traceback" in err or len(lines) != 1:
        return f"exit status {code}, {len(lines)} lines of error:\n{err[-1500:]}"
    if row.says not in lines[0]:
        return f"another line: {lines[0]}"
    if len(lines[0]) > 200:
        return f"{len(lines[0])} letters: {lines[0]}"
    changed = before.items() ^ _files(folder).items()
    return f"written: {sorted(changed)}" if changed else ""


def run(words: list[str]) -> tuple[object, str]:
    """The exit status of a command, run in this process, and what it writes to stderr."""
    err = io.StringIO()
    own = logging.getLogger("grainclip")
    handlers, sys.argv = own.handlers, ["lightning"]
    own.handlers = []
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code: object = main(words)
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            code = "a traceback"
            err.write(traceback.format_exc())
    own.handlers = handlers
    return code, err.getvalue()


def _files(folder: Path) -> dict[str, int]:
    """All files and their sizes; a folder for output may have been made and tried before what is read was opened."""
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """The folder with all files."""
    folder = tmp_path_factory.mktemp("stage")
    write_stage(folder)
    return folder


@pytest.fixture(autouse=True)
def inside(request, monkeypatch):
    """The stage is the working folder, without a network and a GPU."""
    if "stage" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("stage"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("row", [row for row in ROWS if row.quick], ids=lambda row: row.command)
def test_one_right_line(row, stage):
    assert not refusal(row, stage)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_whole_table(stage):
    wrong = {row: told for row in ROWS if (told := refusal(row, stage))}
    report = "\n".join(f"{row.kind}: {row.command}\n    {told}" for row, told in wrong.items())
    kinds = dict.fromkeys(row.kind for row in ROWS)
    for kind in kinds:
        of_kind = [row for row in ROWS if row.kind == kind]
        sys.stdout.write(f"{kind}: {sum(row not in wrong for row in of_kind)} of {len(of_kind)}\n")
    assert len(wrong) <= 0.02 * len(ROWS), report  # what other libraries say may change; the rows above hold always


def test_the_table_is_large_and_of_every_kind():
    assert len(ROWS) >= 200
    assert len({(row.command, row.says) for row in ROWS}) == len(ROWS)
    assert 12 <= sum(row.quick for row in ROWS) <= 30
    commands = {row.words[0] for row in ROWS}
    assert commands >= {"fit", "validate", "test", "evaluate", "predict", "export", "explain", "report"}
    assert commands >= {"inspect", "index", "prepare", "doctor"}
