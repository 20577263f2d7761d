"""Checkpoints that are whole or not there, whatever happens while one is written.

Lightning writes a checkpoint to the folder for temporary files and moves it. Where that is another disk, as on most
clusters, the move is a copy, and a job killed in its middle leaves half a file in the place of the last good one. Here
it is written beside its place, brought to the disk and renamed: the step that the file system does in one go.

Of ``last.ckpt`` the one before stays, as ``last-0.ckpt``: should a disk or a copy damage the newest after all, a run
goes on from there.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from typing_extensions import override

from datamodules.atomic_write import draft_name
from lightning_modules.checkpoints.sharded import is_complete
from lightning_modules.networks.weights.unreadable import UNREADABLE, why_unreadable

LAST = "last"


class CheckpointError(OSError):
    """A checkpoint could not be written, and the one before is untouched; or none that is there can be read."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes local files atomically; URLs are left to Lightning."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        draft = file.with_name(draft_name(file.name))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as out:
                torch.save(checkpoint, out)
                out.flush()
                os.fsync(out.fileno())
            put_in_place(draft, file)
        except (OSError, RuntimeError) as error:
            if stopped := _among_causes(error, (KeyboardInterrupt, SystemExit)):
                raise stopped from None  # PyTorch's writer complains of the file that it could not finish
            cause = _among_causes(error, OSError) or error
            raise CheckpointError(
                f"{file} could not be written: {why_unreadable(cause)}; the one before it, if any, is whole"
            ) from error
        finally:
            draft.unlink(missing_ok=True)

    @override
    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises ``CheckpointError`` where it is a folder of FSDP2's, or not whole."""
        file = Path(path)
        if file.is_dir():
            raise CheckpointError(
                f"{file} is a folder of slices, for FSDP2: go on with configs/recipes/fsdp2.yaml, or make one file of "
                f"it by `lightning export {file} whole.ckpt --format checkpoint`, and --ckpt_path whole.ckpt"
            )
        if file.exists() and not is_whole(file):
            raise CheckpointError(f"{file} is cut short or damaged; --ckpt_path takes another one")
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except UNREADABLE as error:
            raise CheckpointError(f"{file} cannot be read: {why_unreadable(error)}") from error


E = TypeVar("E", bound=BaseException)


def _among_causes(error: BaseException | None, kinds: type[E] | tuple[type[E], ...]) -> E | None:
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


def put_in_place(new: Path, path: Path) -> None:
    """Replace ``path`` by the file or folder ``new``; a whole ``last`` is kept as ``last-0``.

    A file is there under its name at any moment. Folders cannot be exchanged in one operation everywhere, nor files
    where the disk knows no links: a process that dies between two leaves the old one under a name that a search for
    the last checkpoint finds as well: ``last-0.ckpt`` for ``last.ckpt``.
    """
    before = the_one_before(path)
    if is_whole(path) and (path.is_dir() or new.is_dir() or path.stem == LAST):
        if path.is_dir() or before.is_dir():
            remove(before)
        _keep(path, before, linked=not (path.is_dir() or new.is_dir()))
    elif path.is_dir() or new.is_dir():
        remove(path)
    os.replace(new, path)
    if path.stem != LAST:
        remove(before)


def _keep(path: Path, before: Path, linked: bool) -> None:
    if linked:
        with suppress(OSError):  # a disk without links
            _link(path, before)
            return
    os.replace(path, before)


def _link(path: Path, other: Path) -> None:
    """Link the file ``path`` as ``other``, in place of a file of that name. Raises ``OSError`` on disks without."""
    draft = other.with_name(draft_name(other.name))
    draft.unlink(missing_ok=True)
    os.link(path, draft)
    os.replace(draft, other)
    draft.unlink(missing_ok=True)  # it stays where both names were the same file's already


def the_one_before(path: Path) -> Path:
    """The path to which the checkpoint replaced by ``path`` is moved."""
    return path.with_name(f"{path.stem}-0{path.suffix}")


def is_whole(path: Path) -> bool:
    """True if a checkpoint is complete: a file's table of contents, or all slices of a folder."""
    if path.is_dir():
        return is_complete(path)
    try:
        with zipfile.ZipFile(path):
            return True
    except (OSError, zipfile.BadZipFile):
        return False


def remove(path: Path) -> None:
    """Remove the file or folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
