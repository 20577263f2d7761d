"""Index data that the host knows: masks, counts, indices, all that says how large a result is and where things stand.

A GPU works behind the host. To read a number of it the host waits until the GPU has done all it was given, and the GPU
then idles until it is given more. But a batch's indices come from the host: so a tensor that was copied to a device
keeps a copy of its values there (`remember`), and `on_host` reads that one. What no copy is known of is read from the
device, once. Nothing else depends on it: a tensor without a copy gives the same results, and costs a wait.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

COPY = "copy_on_host"  # the attribute of a tensor: its version when it was copied, and the copy


def on_host(x: Shaped[Tensor, "*shape"] | Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """The values of index data; waits for the device only where they are not known. Not to be written to."""
    if isinstance(x, np.ndarray):
        return x
    copy = _copy_of(x)
    if copy is None:
        copy = x.detach().cpu()
        remember(x, copy)
    return copy.numpy()


def on_device(values: Shaped[np.ndarray, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """Index data on a device, without waiting for it."""
    source = torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return source.to(device)
    moved = source.pin_memory().to(device, non_blocking=True)
    remember(moved, source)
    return moved


def remember(moved: Tensor, source: Tensor) -> None:
    """Let a tensor on a device keep ``source``, its copy on the host, until it is changed."""
    if moved.device.type != "cpu" and not moved.is_inference():
        setattr(moved, COPY, (moved._version, source))


def derived(rule: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``rule(*tensors)``; where all of the tensors have copies on the host, the result has one too."""
    result, copies = rule(*tensors), [_copy_of(x) for x in tensors]
    known = [copy for copy in copies if copy is not None]
    if result.device.type != "cpu" and len(known) == len(copies):
        remember(result, rule(*known))
    return result


def everywhere(*shape: int, device: torch.device) -> Tensor:
    """A mask that is True everywhere."""
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    remember(mask, torch.ones(shape, dtype=torch.bool))
    return mask


def _copy_of(x: Tensor) -> Tensor | None:
    if x.device.type == "cpu":
        return x.detach()
    version, copy = getattr(x, COPY, (-1, None))
    return copy if copy is None or version == x._version else None
