"""Numbers of trained and frozen parameters of a method, by tower, added modules and the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from lightning_modules.methods.base import Method
from lightning_modules.networks.lora import adapter_parameters
from lightning_modules.networks.tower_parts import towers


class Count(NamedTuple):
    """Parameters that are trained, and that are not."""

    trained: int
    frozen: int

    def __str__(self) -> str:
        return f"{self.trained / 1e6:.4g} M trained, {self.frozen / 1e6:.4g} M frozen"


def parameter_counts(method: Method) -> dict[str, Count]:
    """Counts by part, for the parts that have parameters: the towers, ``adapters`` (LoRA's), ``added modules`` and
    ``others`` (temperatures, a frozen teacher, a running average).
    """
    adapters = adapter_parameters(method.encoder)
    parts: dict[str, Iterable[nn.Parameter]] = {
        "adapters": adapters,
        **{tower.name.replace("_", " "): tower.module.parameters() for tower in towers(method.encoder)},
        "added modules": (p for module in method.new_modules() for p in module.parameters()),
        "others": method.parameters(),
    }
    counted: set[int] = set()
    counts = {}
    for name, parameters in parts.items():
        part = [p for p in parameters if id(p) not in counted]
        counted |= {id(p) for p in part}
        counts[name] = Count(*(sum(p.numel() for p in part if p.requires_grad is trained) for trained in (True, False)))
    order = ("image tower", "text tower", "adapters", "added modules", "others")
    return {name: counts[name] for name in order if any(counts[name])}


def total(counts: Iterable[Count]) -> Count:
    """The sum of counts."""
    trained, frozen = (sum(numbers) for numbers in zip(*counts, strict=True))
    return Count(trained, frozen)
