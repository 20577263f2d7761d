"""Search for a data set's files: releases are unpacked in several ways, and a reader names all that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def place(root: Path, *candidates: str) -> Path:
    """The first of ``candidates`` that is there under ``root``. Raises FileNotFoundError naming them all."""
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise FileNotFoundError(f"{root} holds no {', no '.join(candidates)}; --root must be the folder above")


def user_file(root: Path, given: str) -> Path:
    """A file that the user names: below the current folder, or below ``root``, the folder of the data sets.

    Raises FileNotFoundError where neither holds it, ValueError where it is a folder.
    """
    places = dict.fromkeys((Path(given).expanduser(), root / given))
    file = next((one for one in places if one.exists()), None)
    if file is None:
        raise FileNotFoundError(f"the file {' or '.join(map(str, places))} does not exist")
    if file.is_dir():
        raise ValueError(f"{file} is a folder; a file is needed here")
    return file


def user_folder(root: Path, given: str) -> Path:
    """A folder that the user names: below the current folder where it is there, else below ``root``."""
    own = Path(given).expanduser()
    return own if own.is_dir() else root / given


def first_there(files: Sequence[Path]) -> Path:
    """The first of ``files`` that is there; the first of all where none is, so that it is told as missing."""
    return next((file for file in files if file.is_file()), files[0])
