"""The optimiser's groups: which parameter learns at which rate, under which name, with or without weight decay.

Where both towers learn at one rate they are the group ``towers``; else each has its own, ``image_tower`` and
``text_tower``. Layer-wise decay of the rate (ELECTRA, arXiv 2003.10555; BEiT, arXiv 2106.08254) gives the last block,
the final norm and the projection the tower's rate, each earlier block a factor less, the embeddings the least:

    rate of block i of 1 ... L = rate · decay^(L - i),   rate of the embeddings = rate · decay^L

The groups are then ``image_tower_block_00``, ..., ``image_tower_embeddings``; the full rate stays in ``image_tower``.
Rates of groups that are not decayed are equal to those that are; their names end with ``_no_decay``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from lightning_modules.networks import Encoder
from lightning_modules.networks.lora import adapter_parameters
from lightning_modules.networks.tower_parts import TowerParts, towers

if TYPE_CHECKING:
    from lightning_modules.methods.optimizers import OptimConfig

TEMPERATURES = ("log_scale", "beta_cal.bias", "logit_bias")  # what shifts and scales logits


class Rate(NamedTuple):
    """A group's name and peak learning rate."""

    name: str
    lr: float


def parameter_groups(
    model: nn.Module, encoder: Encoder, new_modules: Iterable[nn.Module], config: OptimConfig
) -> list[dict[str, Any]]:
    """Groups, as PyTorch's optimisers take them, of all trained parameters of ``model`` with their names."""
    rates = _tower_rates(encoder, config)
    added = _or(config.added_modules_lr, config.lr)
    new = [parameter for module in new_modules for parameter in module.parameters()]
    rates |= {id(parameter): Rate("new", added) for parameter in new}
    rates |= {id(parameter): Rate("adapters", added) for parameter in adapter_parameters(encoder)}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        temperature = name.endswith(TEMPERATURES)
        rate = rates.get(id(parameter), Rate("towers", config.lr))
        if temperature:
            rate = Rate("temperatures", _or(config.temperature_lr, config.lr))
        decayed = parameter.ndim >= 2 and not temperature
        label = rate.name if decayed or temperature else f"{rate.name}_no_decay"
        decay = config.weight_decay if decayed else 0.0
        group = groups.setdefault(label, {"name": label, "params": [], "lr": rate.lr, "weight_decay": decay})
        group["params"].append((name, parameter))
    return list(groups.values())


def _tower_rates(encoder: Encoder, config: OptimConfig) -> dict[int, Rate]:
    """The group and rate of each parameter of both towers, by its ``id``."""
    both = towers(encoder)
    lr = {"image_tower": _or(config.image_lr, config.lr), "text_tower": _or(config.text_lr, config.lr)}
    if config.layer_decay == 1 and len(set(lr.values())) == 1:
        return {id(p): Rate("towers", lr[tower.name]) for tower in both for p in tower.module.parameters()}
    return {parameter: rate for tower in both for parameter, rate in _layer_rates(tower, lr[tower.name], config)}


def _layer_rates(tower: TowerParts, lr: float, config: OptimConfig) -> Iterable[tuple[int, Rate]]:
    last = len(tower.blocks)
    for parameter, depth in tower.depths().items():
        if config.layer_decay == 1 or depth >= last:
            yield parameter, Rate(tower.name, lr)
            continue
        part = "embeddings" if depth == 0 else f"block_{depth - 1:02d}"
        yield parameter, Rate(f"{tower.name}_{part}", lr * config.layer_decay ** (last - depth))


def _or(rate: float | None, default: float) -> float:
    return default if rate is None else rate
