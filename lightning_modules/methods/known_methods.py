"""Imports every method of the package: on import a method allows the classes of its settings in checkpoints, which are
read without running code, and its short name becomes known on the command line.
"""

from __future__ import annotations

from importlib import import_module

from lightning_modules import METHODS


def know_all_methods() -> None:
    """Import all methods; to be called before a checkpoint is read."""
    for file in METHODS.values():
        import_module(f"lightning_modules.methods.{file}")
