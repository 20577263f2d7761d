"""One clear line for whatever is wrong with the input, and exit status 2."""

from __future__ import annotations

import sys
from typing import NoReturn

from datamodules.terminal_text import printable


def fail(message: str) -> NoReturn:
    """Write one line and stop with status 2."""
    line = printable(" ".join(message.split()))
    sys.stderr.write(f"lightning: error: {line}\n")
    raise SystemExit(2)
