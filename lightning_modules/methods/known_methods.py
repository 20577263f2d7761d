"""Every method of ours, imported: each one allows the classes of its settings in checkpoints, which are read without
running code, and goes by its short name on the command line.
"""

from __future__ import annotations

import lightning_modules


def know_all_methods() -> None:
    """Import them. Whoever reads a checkpoint must call it first: a command may have trained nothing itself."""
    for name in lightning_modules.__all__:
        getattr(lightning_modules, name)
