"""Causal attention within texts that stand end to end, without rows, masks or empty places, where PyTorch offers it.

``torch.nn.attention.varlen`` (2.11 and newer) runs on GPUs in half precision. Its interface is young: before it is used
on a device, it is tried there on a few small texts against attention by mask. Where it fails, or gives something else,
texts are packed into rows with a mask, as on a CPU.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

logger = logging.getLogger("grainclip")
TRIED = (1, 7, 24)  # lengths of the texts of the trial
HALF = (torch.float16, torch.bfloat16)


class Spans(NamedTuple):
    """Texts that stand end to end; text ``u`` is at ``offsets[u]`` to ``offsets[u + 1]``."""

    offsets: Int[Tensor, " U+1"]  # int32
    longest: int


def attend_spans(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 H T D"],
    value: Float[Tensor, "1 H T D"],
    spans: Spans,
    scale: float | None = None,
) -> Float[Tensor, "1 T H D"]:
    """Each token attends to those of its text up to itself."""
    attention, causal = _library()
    flat = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    offsets, longest = spans
    return attention(*flat, offsets, offsets, longest, longest, scale=scale, **causal)[None]


def offered(device: torch.device, precision: torch.dtype, heads: int, width: int) -> bool:
    """True where texts can be attended without rows: see above. ``width`` is that of a head."""
    if device.type != "cuda" or precision not in HALF or torch.are_deterministic_algorithms_enabled():
        return False
    return width % 8 == 0 and _works(device, precision, heads, width)


@lru_cache(maxsize=16)
def _works(device: torch.device, precision: torch.dtype, heads: int, width: int) -> bool:
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            return _agrees(device, precision, heads, width)
    except (ImportError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        logger.info("texts are packed into rows with a mask: attention of variable length fails here (%s)", error)
        return False


def _agrees(device: torch.device, precision: torch.dtype, heads: int, width: int) -> bool:
    """Values and gradients of a few texts are those of each text by itself, to the precision's digits."""
    offsets = torch.tensor([0, *TRIED]).cumsum(0)
    seed = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 1, heads, int(offsets[-1]), width, generator=seed).to(device, precision)
    ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    spans = Spans(offsets.to(device, torch.int32), max(TRIED))
    out = attend_spans(ours[0], ours[1], ours[2], spans).transpose(1, 2)
    texts = theirs.split(TRIED, dim=3)
    wanted = torch.cat([scaled_dot_product_attention(x[0], x[1], x[2], is_causal=True) for x in texts], dim=2)
    weight = torch.randn(wanted.shape, generator=seed).to(device, precision)
    grads = [torch.autograd.grad((x * weight).sum(), at)[0] for x, at in ((out, ours), (wanted, theirs))]
    return torch.allclose(out, wanted, rtol=0.02, atol=0.02) and torch.allclose(*grads, rtol=0.05, atol=0.05)


def _library() -> tuple[Callable[..., Any], dict[str, Any]]:
    """PyTorch's function, and how it is told to be causal. Raises ImportError where there is none."""
    from torch.nn.attention.varlen import varlen_attn  # not in older versions

    known = inspect.signature(varlen_attn).parameters
    return varlen_attn, {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
