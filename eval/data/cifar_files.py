"""CIFAR's Python files: dictionaries of lists, texts and one array of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from eval.data.restricted_pickle import read_pickle


def _encoded(text: str, coding: str) -> bytes:
    return text.encode(coding)


_reconstruct: Any = np.zeros(1, np.uint8).__reduce__()[0]
_KNOWN: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encoded,
}


def read_cifar(path: Path) -> dict[str, Any]:
    """The dictionary of a file, texts as texts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds more than CIFAR's files do.
    """
    found = read_pickle(path, _KNOWN)
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(found).__name__}")
    return {_text(key): [_text(v) for v in value] if isinstance(value, list) else value for key, value in found.items()}


def _text(value: Any) -> Any:
    """Python 2's texts may be read as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value
