"""Output paths of a command, made and tested before its work begins."""

from __future__ import annotations

from pathlib import Path

from datamodules.atomic_write import try_folder


def make_folder(folder: Path, option: str) -> None:
    """Make ``folder`` with its parents, and check that a file can be written into it.

    Raises:
        ValueError: where it cannot; the message names ``option``, the folder and the reason.
    """
    try:
        try_folder(folder)
    except OSError as error:
        raise ValueError(f"{option} must be a folder that can be written to, got {folder}: {error.strerror}") from error


def not_a_run(folder: Path, option: str) -> None:
    """Raise ValueError where ``folder`` belongs to a training run, or holds its checkpoints."""
    for place in (folder, folder.parent) if folder.name == "checkpoints" else (folder,):
        if (place / "run.json").is_file() and (place / "config.yaml").is_file():
            raise ValueError(f"{option} must not be the folder of a training run, got {folder}: name one of its own")


def make_room(file: Path, option: str) -> None:
    """Make the folder of ``file`` with its parents, and check that ``file`` can be written.

    Raises:
        ValueError: where it cannot; the message names ``option``, the file or folder and the reason.
    """
    if file.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {file}")
    make_folder(file.parent, f"the folder of {option}")
