"""Where a data set's files are: releases are unpacked in more than one way, so a reader names all that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def place(root: Path, *candidates: str) -> Path:
    """The first of ``candidates`` that is there under ``root``. Raises FileNotFoundError naming them all."""
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise FileNotFoundError(f"{root} must hold {' or '.join(candidates)}, got neither; --root is the folder above")


def first_there(files: Sequence[Path]) -> Path:
    """The first of ``files`` that is there; the first of all where none is, so that it is told as missing."""
    return next((file for file in files if file.is_file()), files[0])
