"""Files that are whole or not there: written beside their place, then renamed in one step."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def process_name() -> str:
    """This process, by host and number: a draft that bears it meets no other one, also on a disk that hosts share."""
    return f"{socket.gethostname()}.{os.getpid()}"


def draft_name(name: str) -> str:
    """The name under which this process writes what will be called ``name``: no two processes share it."""
    return f".{name}.{process_name()}.writing"


def try_folder(folder: Path) -> None:
    """Make a folder with its parents and see that it can be written to. Raises ``OSError`` where it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a draft beside ``path``; afterwards it takes ``path``'s place, with the mode of a new file.

    Where an error ends the block, the draft is removed and what ``path`` held before is untouched.

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
