"""The life of a run by the command: nothing of an earlier run is overwritten or falsified."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.runs.checkpoint import RUN
from lightning_modules.runs.lock import NAME as LOCK
from tests.helpers.commands import Commands, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")


def held(file: str, step: int) -> tuple[str, ...]:
    """Words that hold a run up before a step until there is ``file``."""
    waits = "tests.lightning_modules.runs.steps_noted.Waits"
    return "--trainer.callbacks", waits, "--trainer.callbacks.file", file, "--trainer.callbacks.step", str(step)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.fixture(scope="module")
def trained(commands) -> Path:
    """The folder where a run called tiny has finished: six steps."""
    tiny_config(commands.folder)
    status, said = commands.run("fit", "--config", "tiny.yaml")
    assert status == 0, said
    return commands.folder / "runs" / "tiny"


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder: a digest of what it holds and when it was written."""
    return {
        str(file.relative_to(folder)): f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.stat().st_mtime_ns}"
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def saved(run: Path, name: str = "last") -> dict:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def error(said: str) -> str:
    """The one line with which a command was refused."""
    (line,) = [line for line in said.splitlines() if line.startswith("lightning: error:")]
    assert len(line) <= 230, line  # 200 characters and what stands before them
    assert "Traceback" not in said
    return line


def refused(commands: Commands, run: Path, *words: str) -> str:
    """The line of a command that is refused, and leaves every file as it was."""
    before = files(run.parent)
    status, said = commands.run(*words)
    assert status == 2, said
    assert files(run.parent) == before
    return error(said)


def test_a_runs_folder_holds_all_of_it(trained, commands):
    assert {path.name for path in trained.iterdir()} >= {"checkpoints", "config.yaml", "results.json", "run.json"}
    assert list(trained.glob("events.out.tfevents.*"))
    assert {path.name for path in commands.folder.iterdir()} == {"runs", "shards", "tiny.yaml"}
    record, checkpoint = json.loads((trained / "run.json").read_text()), saved(trained)
    assert checkpoint[RUN]["id"] == record["id"] == saved(trained, "best")[RUN]["id"]
    assert yaml.safe_load((trained / "config.yaml").read_text()) == yaml.safe_load(checkpoint[RUN]["config"])
    assert not (trained / LOCK).exists()


def test_a_finished_run_shows_its_table(trained, commands):
    before = files(trained)
    status, said = commands.run("fit", "--config", "tiny.yaml")
    assert status == 0
    assert "runs/tiny: finished, 2 epochs (6 steps) of trainer.max_epochs 2; --trainer.max_epochs 3 or more" in said
    assert "caption · text to image" in said
    assert files(trained) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model.beta", "0.25"], "last.ckpt (step 6) has other settings: model.beta: 0.5 → 0.25; --name OTHER"),
        (["--data.sampling.phrases", "1", "--trainer.max_epochs", "4"], "data.sampling.phrases: 30 → 1"),
        (["--model", "MulClip", "--model.encoder.image_size", "16"], "model: BetaClip → MulClip"),
        (["--ckpt_path", "nothere.ckpt"], "--ckpt_path nothere.ckpt: no such checkpoint"),
        (
            ["--ckpt_path", "runs/tiny/checkpoints/best.ckpt"],
            "runs/tiny holds a run already: --name OTHER goes on from",
        ),
        (["--trainer.max_steps", "0"], "trainer.max_steps must be above 0 to train, got 0"),
        (["--name", "../elsewhere"], "name must be that of a folder within runs, got '../elsewhere'"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_what_is_refused_before_anything_is_written(trained, commands, words, says):
    assert says in refused(commands, trained, "fit", "--config", "tiny.yaml", *words)


def test_the_current_folder_stays_as_it_is(trained, commands):
    """A config of one's own called config.yaml, and no logger."""
    mine = commands.folder / "mine"
    mine.mkdir()
    config = mine / "config.yaml"
    config.write_text("# my notes\n" + tiny_config(commands.folder).read_text().replace("shards/", "../shards/"))
    before = config.read_text()
    words = ("--config", "config.yaml", "--trainer.logger", "false", "--trainer.max_steps", "1")
    status, said = commands.run("fit", *words, folder=mine)
    assert status == 0, said
    assert config.read_text() == before
    assert {path.name for path in mine.iterdir()} == {"config.yaml", "runs"}
    assert saved(mine / "runs" / "tiny")["global_step"] == 1


def test_measuring_has_a_place_of_its_own(trained, commands):
    before = files(trained)
    for command in ("validate", "test"):
        status, said = commands.run(
            command, "--config", "runs/tiny/config.yaml", "--data.val_shards", "shards/train-000.tar"
        )
        assert status == 0, said
        (place,) = trained.glob(f"{command}-*")
        results = json.loads((place / "results.json").read_text())
        assert results["settings"]["step"] == 6
        assert results["numbers"]["caption/text_to_image/queries"] == 12
        assert yaml.safe_load((place / "config.yaml").read_text())["data"]["val_shards"] == "shards/train-000.tar"
    now = files(trained)
    assert {name: now[name] for name in before} == before
    assert all(name.startswith(("validate-", "test-")) for name in now.keys() - before.keys())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ckpt_path", "nothere.ckpt"], "--ckpt_path nothere.ckpt: no such checkpoint"),
        (["--name", "none"], "runs/none holds no checkpoint to validate: --ckpt_path FILE or"),
        (["--model.beta", "0.1"], "model.beta: 0.5 → 0.1"),
    ],
)
def test_what_cannot_be_measured(trained, commands, words, says):
    assert says in refused(commands, trained, "validate", "--config", "tiny.yaml", *words)


@pytest.mark.slow
def test_a_run_that_goes_on(trained, commands):
    """From the step it stopped at, longer and with another logger; config.yaml goes with the weights."""
    first = ("--config", "tiny.yaml", "--name", "longer", "--trainer.max_steps", "4")
    assert commands.run("fit", *first)[0] == 0
    run = trained.parent / "longer"
    words = ("--config", "tiny.yaml", "--name", "longer", "--trainer.max_steps", "8", "--trainer.max_epochs", "-1")
    status, said = commands.run(
        "fit", *words, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "elsewhere"
    )
    assert status == 0, said
    assert "runs/longer: goes on at step 4, from runs/longer/checkpoints/last.ckpt" in said
    assert "trainer.logger.save_dir elsewhere: a run's logs lie in its folder, runs/longer" in said
    assert (run / "csv" / "version_0" / "metrics.csv").is_file()
    assert not (commands.folder / "elsewhere").exists()
    record = saved(run)[RUN]
    assert [(part["from"], part["to"]) for part in record["history"]] == [(0, 4), (4, 8)]
    assert record["history"][1]["changed"] == {"trainer.max_epochs": [2, -1], "trainer.max_steps": [4, 8]}
    text = (run / "config.yaml").read_text()
    assert "# Changed at step 4: trainer.max_epochs: 2 → -1, trainer.max_steps: 4 → 8" in text
    assert yaml.safe_load(text) == yaml.safe_load(record["config"])


@pytest.mark.slow
def test_accepted_settings(trained, commands):
    first = ("--config", "tiny.yaml", "--name", "accepted")
    assert commands.run("fit", *first, "--trainer.max_steps", "2")[0] == 0
    change = (*first, "--model.optim.lr", "5e-4", "--model.beta", "0.2")
    assert "model.beta: 0.5 → 0.2; " in refused(commands, trained, "fit", *change, "--resume.accept", "[model.optim]")
    status, said = commands.run("fit", *change, "--resume.accept", "true")
    assert status == 0, said
    record = saved(trained.parent / "accepted")
    assert record[RUN]["history"][1] == {
        "from": 2, "to": 6,
        "changed": {"model.beta": [0.5, 0.2], "model.optim.lr": [1e-3, 5e-4], "trainer.max_steps": [2, -1]},
    }  # fmt: skip
    assert record["hyper_parameters"]["beta"] == 0.2
    assert yaml.safe_load((trained.parent / "accepted" / "config.yaml").read_text())["resume"]["accept"] is False
    status, said = commands.run("export", "runs/accepted/checkpoints/last.ckpt", "exported")
    assert status == 0, said
    card = (commands.folder / "exported" / "README.md").read_text()
    assert "- at step 2: model.beta: 0.5 → 0.2, model.optim.lr: 0.001 → 0.0005, trainer.max_steps: 2 → -1" in card
    assert '"beta": 0.2' in card


@pytest.mark.slow
def test_starting_anew_moves_the_old_run_aside(trained, commands):
    words = ("fit", "--config", "tiny.yaml", "--name", "anew", "--trainer.max_steps", "1")
    assert commands.run(*words)[0] == 0
    run = trained.parent / "anew"
    for number, way in enumerate((["--ckpt_path", "null"], ["--resume.anew", "true", "--model.beta", "0.1"]), 1):
        before = files(run)
        status, said = commands.run(*words, *way)
        assert status == 0, said
        assert f"runs/anew: the run before is now runs/anew.old-{number}" in said
        assert files(run.with_name(f"anew.old-{number}")) == before
        assert saved(run)[RUN]["id"] != saved(run.with_name(f"anew.old-{number}"))[RUN]["id"]


@pytest.mark.slow
def test_another_runs_checkpoint(trained, commands):
    """A run begins with it; the same command goes on from its own."""
    before, start = files(trained), "runs/tiny/checkpoints/last.ckpt"
    words = ("fit", "--config", "tiny.yaml", "--name", "second", "--ckpt_path", start, "--trainer.max_epochs", "3")
    assert commands.run(*words, "--trainer.max_steps", "7")[0] == 0
    status, said = commands.run(*words)
    assert status == 0, said
    assert "goes on at step 7, from runs/second/checkpoints/last.ckpt" in said
    record = saved(trained.parent / "second")[RUN]
    assert record["id"] != saved(trained)[RUN]["id"]
    assert record["history"][-1]["to"] == 9
    assert files(trained) == before


@pytest.mark.slow
def test_moved_shards_are_the_same_data(trained, commands):
    words = ("fit", "--config", "tiny.yaml", "--name", "moved")
    assert commands.run(*words, "--trainer.max_steps", "1")[0] == 0
    copy = commands.folder / "copied"
    os.system(f"cp -r {commands.folder / 'shards'} {copy}")
    status, said = commands.run(*words, "--data.shards", "copied/*.tar", "--trainer.max_steps", "2")
    assert status == 0, said
    assert "data.shards" not in str(saved(trained.parent / "moved")[RUN]["history"])
    line = refused(commands, trained, *words, "--data.shards", "copied/train-000.tar")
    assert "data.shards: copied/*.tar → copied/train-000.tar" in line
    (copy / "train-001.tar").unlink()
    line = refused(commands, trained, *words, "--data.shards", "copied/*.tar")
    assert "data.shards: " in line


@pytest.mark.slow
def test_two_at_once(trained, commands):
    """The second is told of the first, and does no harm; after a kill the lock is known to be stale."""
    words = ("fit", "--config", "tiny.yaml", "--name", "twice")
    first = commands.start(*words, *held("never", 3))
    first.wait_until_it_says("waiting before step 3")
    line = refused(commands, trained, *words)
    assert f"runs/twice is being written by process {first.pids[0]} on " in line
    first.signal(signal.SIGKILL)
    assert first.wait() == -9
    status, said = commands.run(*words)
    assert status == 0, said
    assert "runs/twice/run.lock: left by a dead run" in said
    assert saved(trained.parent / "twice")["global_step"] == 6
    assert not list((trained.parent / "twice").glob("**/.*"))


def assert_like(run: Path, other: Path) -> None:
    """The same weights, bit for bit."""
    mine, theirs = saved(run), saved(other)
    assert mine["global_step"] == theirs["global_step"]
    assert all(torch.equal(mine["state_dict"][name], weight) for name, weight in theirs["state_dict"].items())


@pytest.mark.slow
def test_stopped_and_gone_on_with(trained, commands):
    """By Ctrl-C, SIGTERM and kill -9, each in another part of the run: in the end it is the run that nobody stopped."""
    words = ("fit", "--config", "tiny.yaml", "--name", "stopped")
    for step, number, status in ((2, signal.SIGINT, 130), (4, signal.SIGTERM, 143), (5, signal.SIGKILL, -9)):
        gate = commands.folder / f"go-{step}"
        started = commands.start(*words, *held(gate.name, step))
        started.wait_until_it_says(f"waiting before step {step}")
        started.signal(number)
        if status > 0:
            started.wait_until_it_says(f"{number.name}: the run saves after its step and stops; Ctrl-C once more")
            gate.touch()
        assert started.wait() == status
        gate.unlink(missing_ok=True)
        if status > 0:
            assert f"{number.name}: stopped at step {step}, saved; the same command goes on" in started.said
            assert "Traceback" not in started.said
    assert saved(trained.parent / "stopped")["global_step"] == 4
    status, said = commands.run(*words)
    assert status == 0, said
    assert "runs/stopped: goes on at step 4, from " in said
    assert_like(trained.parent / "stopped", trained)


def test_a_second_interrupt_ends_at_once(trained, commands):
    """Amid a step that never ends."""
    started = commands.start("fit", "--config", "tiny.yaml", "--name", "hurried", *held("never", 3))
    started.wait_until_it_says("waiting before step 3")
    before = files(trained.parent / "hurried" / "checkpoints")
    started.signal(signal.SIGINT)
    started.wait_until_it_says("once more ends it at once")
    started.signal(signal.SIGINT)
    assert started.wait() == -signal.SIGINT
    assert files(trained.parent / "hurried" / "checkpoints") == before
    assert "could not be written" not in started.said
    assert saved(trained.parent / "hurried")["global_step"] == 2


@pytest.mark.slow
def test_two_ranks(trained, commands):
    """The second run is refused, an interrupt stops all, the finished run ends all: every rank alike."""
    ddp = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "4")
    words, gate = ("fit", "--config", "tiny.yaml", "--name", "ranks", *ddp), commands.folder / "go"
    first = commands.start(*words, *held("go", 2), ranks=2)
    first.wait_until_it_says("waiting before step 2")
    status, said = commands.run(*words, ranks=2)
    assert status == 2
    assert "runs/ranks is being written by process" in error(said)
    first.signal(signal.SIGINT, 1)
    time.sleep(1)
    gate.touch()
    assert first.wait() == 130
    assert "SIGINT: stopped at step" in first.said
    for expected in ("goes on at step", "runs/ranks: finished, 2 epochs"):
        status, said = commands.run(*words, ranks=2)
        assert status == 0, said
        assert expected in said
    status, said = commands.run(*words, "--model.beta", "0.1", ranks=2)
    assert status == 2
    assert "model.beta: 0.5 → 0.1" in error(said)
