"""Low-rank adapters in a state dict, and the plain weights that they stand for (LoRA, arXiv 2106.09685, equation 3).

    W = W0 + (alpha / rank) B A

The names are those of the library peft: ``X.base_layer.weight`` is W0 of the linear module X,
``X.lora_A.default.weight`` is A and ``X.lora_B.default.weight`` is B. To read such a checkpoint no peft is needed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
ADAPTER = ".lora_"  # stands in the name of every weight of an adapter
NAME = "default"  # of the adapters, in peft's modules


def is_adapter(name: str) -> bool:
    """True for the name of an adapter's parameter."""
    return ADAPTER in name


@torch.no_grad()
def merged(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A state dict without adapters: each is added to the weight that it adapts.

    Args:
        state: with or without adapters.
        scale: alpha / rank.
    """
    plain = {}
    for name, tensor in state.items():
        if is_adapter(name):
            continue
        module = name.removesuffix("weight").removesuffix(BASE)
        if name.endswith(f"{BASE}weight") and f"{module}{DOWN}" in state:
            exact = torch.promote_types(tensor.dtype, torch.float32)
            up, down = state[f"{module}{UP}"].to(exact), state[f"{module}{DOWN}"].to(exact)
            tensor = (tensor.to(exact) + scale * (up @ down)).to(tensor.dtype)
        plain[name.replace(BASE, ".")] = tensor
    return plain


def adapter_scale(module: nn.Module) -> float:
    """The factor alpha / rank of the adapters inside a module; 1 where it has none."""
    scalings = (getattr(layer, "scaling", {}) for layer in module.modules() if hasattr(layer, "lora_A"))
    return next((float(scaling[NAME]) for scaling in scalings), 1.0)


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict, adapters merged; without adapters its own."""
    return merged(module.state_dict(), adapter_scale(module))
