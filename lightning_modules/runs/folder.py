"""A run's folder, ``runs/NAME``: checkpoints, config.yaml, results.json, run.json and logs, whatever the logger.

``run.json`` holds the run's id, made when it first starts; the same id is in each of its checkpoints.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from datamodules.atomic_write import write_text
from lightning_modules.checkpoints.atomic_save import CheckpointError, is_whole, remove, the_one_before

RECORD, CONFIG, RESULTS, CHECKPOINTS = "run.json", "config.yaml", "results.json", "checkpoints"


class RunFolder:
    """The paths of the run ``name`` among ``runs``.

    Raises:
        ValueError: where the name would lead out of ``runs``, or that is a URL.
    """

    def __init__(self, runs: str | Path, name: str) -> None:
        if "://" in str(runs):
            raise ValueError(f"runs must be a folder of this machine's disks, got {runs}")
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts:
            raise ValueError(f"name must be that of a folder within {runs}, got {name!r}")
        self.name, self.path = name, Path(runs, name)

    @property
    def checkpoints(self) -> Path:
        """The folder of last.ckpt and best.ckpt."""
        return self.path / CHECKPOINTS

    def record(self) -> dict[str, Any]:
        """The content of run.json; empty where there is none that can be read."""
        try:
            return dict(json.loads((self.path / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def write_record(self, record: dict[str, Any]) -> None:
        """Write run.json."""
        write_text(self.path / RECORD, json.dumps(record, indent=2) + "\n")

    def holds_a_run(self) -> bool:
        """True if the folder has files of a run."""
        return any((self.path / name).exists() for name in (RECORD, CONFIG, RESULTS)) or (
            self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        )

    def last_checkpoint(self) -> tuple[Path | None, list[Path]]:
        """``last.ckpt`` where it is whole, else the one before it, else None; and which of them are damaged.

        Raises:
            CheckpointError: where neither is whole and one is there.
        """
        last, damaged = self.checkpoints / "last.ckpt", []
        for path in (last, the_one_before(last)):
            if path.exists():
                if is_whole(path):
                    return path, damaged
                damaged.append(path)
        if damaged:
            raise CheckpointError(
                f"{last} is cut short or damaged, and so is the one before it, if any: --resume.anew true moves the "
                "run aside and starts anew"
            )
        return None, []

    def aside(self) -> Path:
        """The first free name for the folder when a new run takes its place: ``NAME.old-1``, ``NAME.old-2``..."""
        number = 1
        while (path := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        return path

    def place_of(self, command: str) -> Path:
        """A new folder for what another command than ``fit`` writes: ``runs/NAME/validate-DATE``."""
        date = time.strftime("%Y-%m-%d_%H-%M-%S")
        for number in range(1000):
            folder = self.path / f"{command}-{date}{f'-{number}' if number else ''}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return folder
        raise FileExistsError(f"{self.path} holds a thousand folders {command}-{date}")

    def remove_drafts(self) -> None:
        """Remove half-written files of killed runs; the lock must be held."""
        for folder in (self.path, self.checkpoints):
            for draft in folder.glob(".*.writing") if folder.is_dir() else ():
                remove(draft)

    def leave_if_empty(self) -> None:
        """Remove the folder if it is empty: a run that did not start leaves no trace."""
        try:
            os.rmdir(self.path)
        except OSError:
            return


def new_id() -> str:
    """An identity for a run."""
    return uuid.uuid4().hex[:12]


def unwritable(folder: Path, error: OSError) -> str:
    """The line for a folder that cannot be written to."""
    return f"{folder} cannot be written to: {error.strerror or error}; --runs FOLDER names another place"
