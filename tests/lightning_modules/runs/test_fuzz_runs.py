"""Random lives of runs by the command: started, stopped, killed, changed, measured, two at once.

After each command: no file of an earlier run has changed unless that very run went on; every config.yaml is that of the
weights beside it; and the history in each checkpoint says, step by step, with which settings it was really made (a
callback notes them outside). Runs that were only stopped end with the weights of the run that nobody stopped.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.checkpoints.atomic_save import is_whole
from lightning_modules.checkpoints.setting_changes import recorded
from lightning_modules.runs.checkpoint import RUN
from lightning_modules.runs.lock import NAME as LOCK
from tests.helpers.commands import Commands, Started, tiny_config
from tests.lightning_modules.runs.test_life import files

pytestmark = pytest.mark.filterwarnings("ignore")
CHANGES = (
    (), (), (), ("--model.optim.lr", "5e-4"), ("--model.optim.weight_decay", "0.3"), ("--model.beta", "0.25"),
    ("--seed_everything", "5"), ("--data.seed", "7"),
)  # fmt: skip
EPOCHS = (("--trainer.max_epochs", "1"), (), ())
NOTED = ("model.optim.lr", "model.optim.weight_decay", "model.beta")


class World:
    """A folder in which commands are run, and what it must keep to."""

    def __init__(self, commands: Commands, folder: Path, rng: random.Random) -> None:
        self.commands, self.folder, self.rng, self.diary = commands, folder, rng, []
        folder.mkdir()
        (folder / "shards").symlink_to(commands.folder / "shards")
        tiny_config(folder, images={"every_n_steps": 0})
        self.runs, self.notes = folder / "runs", folder / "notes.jsonl"

    def words(self, name: str) -> list[str]:
        noted = "tests.lightning_modules.runs.steps_noted.StepsNoted"
        pause = str(self.rng.choice((0, 0, 0.05)))
        return [
            *("fit", "--config", "tiny.yaml", "--name", name, "--trainer.callbacks", noted),
            *("--trainer.callbacks.file", str(self.notes), "--trainer.callbacks.pause", pause),
        ]

    def start(self, *words: str) -> Started:
        self.diary.append(" ".join(words))
        return self.commands.start(*words, folder=self.folder)

    def act(self) -> None:
        """Something at random; then all must be in order."""
        before = self.files()
        name = self.rng.choice(("a", "a", "b"))
        act = self.rng.choice((self.fit, self.fit, self.stop, self.stop, self.stop, self.two, self.anew, self.measure))
        ended = act(name)
        try:
            self.check(before, name, act == self.anew, ended)
            if 0 in ended and act != self.measure and not any(status is not None and status < 0 for status in ended):
                self.check_tidy(self.runs / name)
        except AssertionError as error:
            raise AssertionError(f"{error}\nafter: " + "\n       ".join(self.diary)) from error

    def files(self) -> dict[str, str]:
        """All files of all runs but their locks: one that a dead run left is removed by whoever comes next."""
        found = files(self.runs) if self.runs.is_dir() else {}
        return {file: digest for file, digest in found.items() if Path(file).name != LOCK}

    def fit(self, name: str) -> list[int | None]:
        accept = self.rng.choice(((), (), ("--resume.accept", "true")))
        return [self.start(*self.words(name), *self.rng.choice(CHANGES), *self.rng.choice(EPOCHS), *accept).wait()]

    def anew(self, name: str) -> list[int | None]:
        way = self.rng.choice((("--ckpt_path", "null"), ("--resume.anew", "true")))
        return [self.start(*self.words(name), *self.rng.choice(CHANGES), *self.rng.choice(EPOCHS), *way).wait()]

    def stop(self, name: str) -> list[int | None]:
        accept = self.rng.choice(((), (), ("--resume.accept", "true")))
        started = self.start(*self.words(name), *self.rng.choice(CHANGES), *accept)
        end = time.monotonic() + 60
        wanted = f"step {self.rng.randint(1, 6)} of"
        while wanted not in started.said and time.monotonic() < end and started.alive():
            time.sleep(0.002)
        time.sleep(self.rng.choice((0, 0.01, 0.05)))
        number = self.rng.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL))
        self.diary.append(f"    {number.name} at {wanted!r}")
        if started.alive():
            started.signal(number)
        status = started.wait()
        assert status in (0, 2, 130, 143, -9, -15, -2), started.said
        assert "Traceback" not in started.said, started.said
        return [status]

    def two(self, name: str) -> list[int | None]:
        both = [self.start(*self.words(name), *self.rng.choice(CHANGES)) for _ in range(2)]
        return [one.wait() for one in both]

    def measure(self, name: str) -> list[int | None]:
        command = self.rng.choice(("validate", "test"))
        other = self.rng.choice(((), ("--data.val_shards", "shards/train-000.tar")))
        return [self.start(command, "--config", "tiny.yaml", "--name", name, *other).wait()]

    def check(self, before: dict[str, str], name: str, anew: bool, ended: list[int | None]) -> None:
        now = self.files()
        killed = any(status is not None and status < 0 for status in ended)
        assert None not in ended
        assert 1 not in ended
        mine = {file: digest for file, digest in before.items() if Path(file).parts[0] == name}
        for file in before.keys() - mine.keys():
            assert now.get(file) == before[file], f"{file} of another run has changed"
        if set(ended) == {2}:
            assert {file: now.get(file) for file in mine} == mine, "a refused command has changed a file"
        self.check_moved(mine, now, name, anew, ended)
        for run in sorted(self.runs.iterdir()) if self.runs.is_dir() else ():
            self.check_run(run, may_be_cut=killed and run.name == name)

    def check_tidy(self, run: Path) -> None:
        """A training that has ended leaves neither its lock nor anything half written, of those before it either."""
        assert not (run / LOCK).exists()
        assert not list(run.glob("**/.*"))

    def check_moved(self, mine, now, name, anew, ended) -> None:
        """A run whose name another one has taken lies whole under a new name."""
        old = [file for file in mine if file.endswith("run.json")]
        if not old:
            return
        aside = {Path(file).parts[0] for file in now if Path(file).parts[0].startswith(f"{name}.old-")}
        kept = any(all(now.get(str(Path(a, *Path(f).parts[1:]))) == d for f, d in mine.items()) for a in aside)
        goes_on = now.get(f"{name}/run.json") == mine[old[0]]
        assert goes_on or kept, "a run was lost"
        if anew and ended == [0]:
            assert kept

    def check_run(self, run: Path, may_be_cut: bool) -> None:
        last = run / "checkpoints" / "last.ckpt"
        if not last.exists():
            return
        assert is_whole(last)
        saved = torch.load(last, weights_only=True)
        record = saved[RUN]
        assert record["id"] == json.loads((run / "run.json").read_text())["id"]
        config = yaml.safe_load((run / "config.yaml").read_text())
        if not may_be_cut:
            assert config == yaml.safe_load(record["config"]), f"{run.name}/config.yaml is not of the weights beside it"
            assert recorded(config) == record["settings"]
        assert record["history"][-1]["to"] == saved["global_step"]
        made = self.made(record["id"])
        for step in range(1, saved["global_step"] + 1):
            said = at_step(record, step)
            assert {name: made[step][name] for name in NOTED} == {name: said[name] for name in NOTED}, (run.name, step)

    def made(self, run: str) -> dict[int, dict]:
        """The steps of a run as they were made, the last time that each was."""
        lines = [json.loads(line) for line in self.notes.read_text().splitlines()]
        return {line["step"]: line for line in lines if line["run"] == run}


def at_step(record: dict, step: int) -> dict:
    """The settings with which a step was made, as a checkpoint's history tells it."""
    settings = dict(record["settings"])
    for part in reversed(record["history"]):
        if step > part["from"]:
            return settings
        settings |= {name: old for name, (old, _) in part["changed"].items()}
    raise AssertionError(f"the history does not tell of step {step}")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("work")) as running:
        tiny_config(running.folder)
        yield running


@pytest.fixture(scope="module")
def whole(commands) -> dict:
    """The weights of the run that nobody stops."""
    world = World(commands, commands.folder / "whole", random.Random(0))
    assert world.start(*world.words("a")).wait() == 0
    return torch.load(world.runs / "a" / "checkpoints" / "last.ckpt", weights_only=True)


def live(commands: Commands, whole: dict, seed: int, acts: int) -> None:
    """A life of so many acts; in the end what was only stopped is brought to its end."""
    rng = random.Random(seed)
    world = World(commands, commands.folder / f"life{seed}", rng)
    for _ in range(acts):
        world.act()
    started = world.start(*world.words("a"))
    status = started.wait()
    last = world.runs / "a" / "checkpoints" / "last.ckpt"
    if status == 0:
        saved = torch.load(last, weights_only=True)
        if len(saved[RUN]["history"]) == 1 and saved[RUN]["settings"] == whole[RUN]["settings"]:
            assert saved["global_step"] == whole["global_step"]
            for name, weight in whole["state_dict"].items():
                assert torch.equal(saved["state_dict"][name], weight), f"{name} after " + "\n".join(world.diary)
    else:
        assert status == 2, started.said  # another run has the name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_short_lives(commands, whole, seed):
    live(commands, whole, seed, 1 + seed % 2)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 300))
def test_lives(commands, whole, seed):
    live(commands, whole, seed, 4)
