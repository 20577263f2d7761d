"""CIFAR's pickles of Python 2, read without running what a pickle may hold: lists, texts and one array of bytes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from eval.records import read_bytes


class _PlainUnpickler(pickle.Unpickler):
    """Knows numpy's arrays and nothing else that could be called."""

    @override
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in _KNOWN:
            return _KNOWN[module_name, global_name]
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which CIFAR's files do not")


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
    read_bytes(path)
    try:
        with path.open("rb") as file:
            found = _PlainUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise ValueError(f"{path} is not one of CIFAR's Python files: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(found).__name__}")
    return {_text(key): [_text(v) for v in value] if isinstance(value, list) else value for key, value in found.items()}


def _text(value: Any) -> Any:
    """Python 2's texts may be read as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value
