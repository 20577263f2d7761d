"""Imports every method of the package: on import a method allows the classes of its settings in checkpoints, which are
read without running code, and its short name becomes known on the command line.
"""

from __future__ import annotations

import lightning_modules


def know_all_methods() -> None:
    """Import all methods; to be called before a checkpoint is read."""
    for name in lightning_modules.__all__:
        getattr(lightning_modules, name)
