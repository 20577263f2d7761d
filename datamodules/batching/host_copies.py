"""Tensors of a batch that was moved to a device keep the tensors that they were copied from.

The masks and indices of a batch decide how large results are and where things stand. The host made them; with its copy
it need not wait for a GPU to read them back (`losses.core.host_copies` does the reading).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

COPY = "copy_on_host"  # the attribute: the tensor's version when it was copied, and the copy


def keep_host_copies(moved: Any, source: Any) -> None:
    """Let each tensor of ``moved`` keep its tensor of ``source``, from which it was copied to a device.

    Args:
        moved: a tensor, or tuples, lists and mappings of them; on the CPU nothing is kept.
        source: the same on the CPU.
    """
    if isinstance(moved, Tensor):
        if moved.device.type != "cpu" and not moved.is_inference():
            setattr(moved, COPY, (moved._version, source))
    elif isinstance(moved, Mapping):
        for key, value in moved.items():
            keep_host_copies(value, source[key])
    elif isinstance(moved, (tuple, list)):
        for one, other in zip(moved, source, strict=True):
            keep_host_copies(one, other)
