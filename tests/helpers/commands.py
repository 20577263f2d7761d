"""The command as users start it, in processes of its own that a test may signal and kill; quick to start, since they
are forked from one that has imported everything.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.cli.main import main
from lightning_modules.runs.lock import process_start
from tests.helpers.tiny import write_shards
from tests.helpers.tiny_run import TINY
from tests.helpers.warm_ranks import WarmRanks

ALONE = 0  # a process that is no rank of several


def tiny_config(folder: Path, **changes: Any) -> Path:
    """``tiny.yaml`` in ``folder``: β-CLIP on 24 made-up samples, six steps of eight images, three an epoch."""
    if not (folder / "shards").is_dir():
        write_shards(folder / "shards", 24, 2)
    config: dict[str, Any] = {
        "seed_everything": 3,
        "ckpt_path": "last",
        "name": "tiny",
        "model": {
            "class_path": "lightning_modules.BetaClip",
            "init_args": {"encoder": asdict(TINY), "optim": {"lr": 1e-3, "warmup_steps": 2}, "pooling_heads": 2},
        },
        "data": {
            "shards": "shards/*.tar", "val_shards": "shards/*.tar", "batch_size": 8, "val_batch_size": 8,
            "num_workers": 0,
        },
        "trainer": {
            "max_epochs": 2, "accelerator": "cpu", "devices": 1, "precision": "32-true", "log_every_n_steps": 1,
            "enable_progress_bar": False, "enable_model_summary": False,
        },
        "images": {"every_n_steps": 0},
        "diagnostics": {"every_n_steps": 0},
        "last_checkpoint": {"every_n_steps": 1},
    }  # fmt: skip
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    file = folder / f"{config['name']}.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


class Commands:
    """``with Commands(folder) as commands``: ``lightning`` in processes that work in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._warm, self._count = folder, WarmRanks(__name__, "lightning_modules.cli.trainer"), 0

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        self._warm.__exit__()

    def start(self, *words: str, ranks: int = ALONE, folder: Path | None = None, **environment: str) -> Started:
        """Start ``lightning words`` without waiting for it."""
        self._count += 1
        out = self.folder.parent / f"{self.folder.name}-out" / str(self._count)
        pids = self._warm.start(out, _command, ranks, list(words), str(folder or self.folder), environment)
        return Started(self._warm, pids, out)

    def run(self, *words: str, **settings: Any) -> tuple[int | None, str]:
        """``lightning words``: its exit status and all it said."""
        started = self.start(*words, **settings)
        return started.wait(), started.said


class Started:
    """A command that runs: process ``pids``, a rank each."""

    def __init__(self, warm: WarmRanks, pids: list[int], out: Path) -> None:
        self._warm, self.pids, self._out = warm, pids, out

    @property
    def said(self) -> str:
        """The first rank's words so far."""
        return (self._out / "0.out").read_text() if (self._out / "0.out").exists() else ""

    def wait(self, seconds: float = 240.0) -> int | None:
        """The exit status of all ranks; None where they took too long and were killed."""
        (status,) = set(self._warm.wait(self.pids, seconds))
        return status

    def wait_until_it_says(self, words: str, seconds: float = 240.0) -> None:
        """Until the first rank has written ``words``."""
        end = time.monotonic() + seconds
        while words not in self.said:
            if time.monotonic() > end:
                raise TimeoutError(f"it has not said {words!r}: {self.said}")
            time.sleep(0.005)

    def alive(self) -> bool:
        """True if the first rank still runs."""
        return bool(process_start(self.pids[0]))

    def signal(self, number: int, *ranks: int) -> None:
        """Send a signal to some ranks; to all where none is named."""
        for rank in ranks or range(len(self.pids)):
            os.kill(self.pids[rank], number)


def _command(words: list[str], folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["lightning", *words]
    raise SystemExit(main())
