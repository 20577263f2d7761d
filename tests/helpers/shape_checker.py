"""A type checker for jaxtyping's import hook that checks tensors only: shapes, element types, and that axes of one name
have one length in all arguments, results and dataclass fields.

Other arguments stay free, since tests pass wrong ones on purpose, to see them refused in one clear line. Methods are
left out: Lightning reads their settings from the frame of ``__init__``, which the hook would wrap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from beartype import BeartypeConf, beartype

F = TypeVar("F", bound=Callable)
PACKAGES = ("losses", "datamodules", "eval", "lightning_modules.networks", "lightning_modules.inference")


def check_tensors(function: F) -> F:
    """``function`` with beartype on those annotations that name a tensor."""
    annotations = getattr(function, "__annotations__", None)
    if annotations:
        function.__annotations__ = {name: kind for name, kind in annotations.items() if "Tensor" in str(kind)}
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))
