"""Atomic writes: a file is written under a draft's name beside its path, then renamed in one step."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def draft_name(name: str) -> str:
    """The name of this process's draft of the file ``name``: host and process id make it unique on a shared disk."""
    return f".{name}.{socket.gethostname()}.{os.getpid()}.writing"


def try_folder(folder: Path) -> None:
    """Make a folder with its parents and check that it can be written to. Raises ``OSError`` where it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a draft beside ``path``, and rename it to ``path`` at the end, with the mode of a new file.

    Where an error ends the block, the draft is removed and ``path`` stays as it was.

    Raises:
        OSError: where the draft cannot be written or renamed; it names ``path``.
    """
    target = Path(path)
    draft = target.with_name(draft_name(target.name))
    try:
        draft.touch()
        mode = draft.stat().st_mode & 0o777  # as the umask has it; some libraries write their files for the owner alone
        yield draft
        draft.chmod(mode)
        os.replace(draft, target)
    except OSError as error:
        if error.filename not in (None, str(draft)):
            raise
        raise OSError(error.errno or 0, error.strerror or str(error), str(target)) from error
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all. Raises ``OSError`` where it cannot."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def named_disk_errors(path: Path) -> Iterator[None]:
    """Name ``path`` in the ``OSError`` of a full disk: the system's own error names no file."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise OSError(f"{path} could not be written: {error.strerror}") from error
        raise
