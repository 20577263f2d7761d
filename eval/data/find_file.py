"""Search for a data set's files: releases are unpacked in several ways, and a reader lists the paths that it knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def find_path(root: Path, *candidates: str) -> Path:
    """The first of ``candidates`` that exists under ``root``. Raises FileNotFoundError naming them all."""
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise FileNotFoundError(f"{root} holds no {', no '.join(candidates)}; --root must be the folder above")


def user_file(root: Path, name: str) -> Path:
    """A file that the user names: below the current folder, or below ``root``, the folder of the data sets.

    Raises FileNotFoundError where neither holds it, ValueError where it is a folder.
    """
    candidates = dict.fromkeys((Path(name).expanduser(), root / name))
    file = next((candidate for candidate in candidates if candidate.exists()), None)
    if file is None:
        raise FileNotFoundError(f"the file {' or '.join(map(str, candidates))} does not exist")
    if file.is_dir():
        raise ValueError(f"{file} is a folder; a file is needed here")
    return file


def user_folder(root: Path, name: str) -> Path:
    """A folder that the user names: below the current folder if it exists there, else below ``root``."""
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else root / name


def first_file(candidates: Sequence[Path]) -> Path:
    """The first of ``candidates`` that is a file; the first of all where none is, for the error message."""
    return next((file for file in candidates if file.is_file()), candidates[0])


def with_files(items: Sequence[tuple[Path, T]], annotations: Path, skip_missing: bool, counts: Counter[str]) -> list[T]:
    """The items whose file exists. Missing files are counted as "image missing", and where several items share a file,
    the items as "item of a missing image".

    Raises FileNotFoundError, naming the file ``annotations``, where a file is missing and ``skip_missing`` is False.
    """
    files = dict.fromkeys(file for file, _ in items)
    missing = {file: None for file in files if not file.is_file()}
    if missing and not skip_missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(files)} files of {annotations} are missing, such as {next(iter(missing))} "
            "(--skip_missing leaves them out, and counts them)"
        )
    present = [item for file, item in items if file not in missing]
    if missing:
        counts["image missing"] += len(missing)
    if (left_out := len(items) - len(present)) > len(missing):
        counts["item of a missing image"] += left_out
    return present
