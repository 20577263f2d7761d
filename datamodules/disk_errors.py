"""A full disk is told with the file that it stopped: the system's own error names none."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def named_disk_errors(path: Path) -> Iterator[None]:
    """Raise ``OSError`` with the name of ``path`` where there is no room for it."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(f"{path} could not be written: {error.strerror}") from error
        raise
