"""Short names of models for folders, tables and pages: "beta_bce-best" for ``runs/beta_bce/checkpoints/best.ckpt``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path

HIDDEN = ("checkpoints", "/", "..")  # parts of a path that do not tell models apart


def model_names(sources: Sequence[str]) -> list[str]:
    """A name for each checkpoint, folder or hub id, all different, fit for a file name.

    A checkpoint is named by its run's folder and its file, any other model by its last part. Where two names would be
    equal, parent folders are added until they differ, and a number where the sources are equal.
    """
    split = [_split(source) for source in sources]
    depth = max((len(folders) for folders, _ in split), default=1)
    names: list[str] = []
    for parents in range(1, depth + 1):
        names = [_joined(folders[-parents:], file) for folders, file in split]
        if len(set(names)) == len(set(sources)):
            break
    different: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in count(2) if f"{name}-{number}" not in names)
        different.append(next(one for one in (name, *islice(numbered, len(names))) if one not in different))
    return different


def _split(source: str) -> tuple[list[str], str]:
    """The folders that name a model, and the checkpoint's file without its ending."""
    path = Path(source)
    if path.exists() or path.suffix == ".ckpt":
        path = path.absolute()
    folders, file = (path.parent, path.stem) if path.suffix == ".ckpt" else (path, "")
    return [part for part in folders.parts if part not in HIDDEN], file


def _joined(folders: Sequence[str], file: str) -> str:
    words = "-".join([*folders, file] if file else folders)
    return re.sub(r"[^0-9A-Za-z._-]+", "_", words)[-80:].lstrip(".-") or "model"
