"""Pickles of old data sets, also from Python 2, read without running code that a pickle may hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from eval.data.records import read_bytes

PICKLE_ERRORS = (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError)


def read_pickle(path: Path, known: Mapping[tuple[str, str], Any]) -> Any:
    """Read numbers, texts, lists, dictionaries, and the classes and functions of ``known``; Python 2's texts as
    Latin-1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or refers to any other class or function.
    """

    class RestrictedUnpickler(pickle.Unpickler):
        @override
        def find_class(self, module_name: str, global_name: str, /) -> Any:
            if (module_name, global_name) in known:
                return known[module_name, global_name]
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which such files do not")

    read_bytes(path)
    try:
        with path.open("rb") as file:
            return RestrictedUnpickler(file, encoding="latin1").load()
    except PICKLE_ERRORS as error:
        raise ValueError(f"{path} is no pickle of plain data: {error}") from error
