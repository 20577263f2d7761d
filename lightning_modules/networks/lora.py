"""LoRA (arXiv 2106.09685): small trained matrices beside frozen ones, by the library peft.

Adapters stand beside linear modules of the transformer blocks. A module is named as in the encoder (``qkv``,
``q_proj``, ``fc1``); ``attention`` and ``mlp`` stand for all of a block's attention or MLP. CLIP's image tower has one
fused ``qkv``, with one adapter. A linear module whose weight is read without a call gets none: all of the attention of
open_clip's own towers (``nn.MultiheadAttention``), and ``qkv`` in timm's Swin V2, BEiT and EVA. B starts at zero, so
that the adapted encoder starts as the plain one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear  # of nn.MultiheadAttention, which never calls it

from datamodules.spelling import did_you_mean
from lightning_modules.networks.adapters import NAME, is_adapter
from lightning_modules.networks.contract import Encoder
from lightning_modules.networks.tower_parts import TowerParts, towers

GROUPS: Mapping[str, tuple[str, ...]] = {  # names of a block's children whose linear modules they stand for
    "attention": ("attn", "self_attn", "attention"),
    "mlp": ("mlp",),
}


@dataclass(frozen=True)
class LoraConfig:
    """Settings of the adapters. Their learning rate is ``optim.added_modules_lr``.

    Args:
        rank: of the matrices B A.
        alpha: B A is multiplied by alpha / rank.
        dropout: share of an adapter's inputs that is dropped in training.
        image_tower: linear modules of its blocks that get an adapter: ``attention``, ``mlp`` or modules' names such as
            ``qkv``; []: none.
        text_tower: the same, with names such as ``q_proj``.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    image_tower: tuple[str, ...] = ("attention", "mlp")
    text_tower: tuple[str, ...] = ("attention", "mlp")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank must be at least 1, got {self.rank}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"lora.alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must lie in [0, 1), got {self.dropout}")
        if not (self.image_tower or self.text_tower):
            raise ValueError("lora.image_tower or lora.text_tower must name modules, got [] for both")

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.rank

    def adapts(self, tower: str) -> bool:
        """True if ``image_tower`` or ``text_tower`` gets adapters."""
        return bool(getattr(self, tower))


def add_adapters(encoder: Encoder, config: LoraConfig) -> None:
    """Put adapters beside linear modules of the encoder, in place. Towers with adapters are frozen but for these.

    Raises:
        ValueError: where a target names no linear module of the tower's blocks, or peft is not installed.
    """
    peft = _peft()
    names = [name for tower in towers(encoder) for name in _targets(encoder, tower, getattr(config, tower.name))]
    trained = {name: parameter.requires_grad for name, parameter in encoder.named_parameters()}
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names, bias="none"
    )
    peft.inject_adapter_in_model(settings, encoder, adapter_name=NAME)
    adapted = tuple(f"{tower.name}." for tower in towers(encoder) if config.adapts(tower.name))
    for name, parameter in encoder.named_parameters():  # peft has frozen all but the adapters, temperature included
        if is_adapter(name):
            parameter.requires_grad_(True)
        else:
            parameter.requires_grad_(not name.startswith(adapted) and trained[name])


def adapter_parameters(encoder: nn.Module) -> list[nn.Parameter]:
    """The parameters of all adapters inside an encoder."""
    return [parameter for name, parameter in encoder.named_parameters() if is_adapter(name)]


def _targets(encoder: Encoder, tower: TowerParts, wanted: Sequence[str]) -> list[str]:
    """Whole names within the encoder of the linear modules that are wanted of a tower's blocks."""
    path_of = {id(module): path for path, module in encoder.named_modules()}
    linear = {
        f"{path_of[id(block)]}.{path}": path.split(".")
        for block in tower.blocks
        for path, module in block.named_modules()
        if isinstance(module, nn.Linear) and _is_called(block, path)
    }
    for target in wanted:
        if not any(_names(target, parts) for parts in linear.values()):
            groups = [group for group in GROUPS if any(_names(group, parts) for parts in linear.values())]
            known = [*groups, *sorted({parts[-1] for parts in linear.values()})]
            hint = did_you_mean(target, known) or f"; they have {', '.join(known) or 'none'}"
            raise ValueError(f"lora.{tower.name}: the tower's blocks have no linear module {target!r}{hint}")
    return [name for name, parts in linear.items() if any(_names(target, parts) for target in wanted)]


def _is_called(block: nn.Module, path: str) -> bool:
    """False for a linear module within a block whose weight is read without a call of the module.

    Where timm's attention has a bias of q alone, it reads ``qkv.weight`` itself, unless ``qkv_bias_separate``.
    """
    parent, _, name = path.rpartition(".")
    attention = block.get_submodule(parent)
    if name == "qkv" and getattr(attention, "q_bias", None) is not None:
        return bool(getattr(attention, "qkv_bias_separate", False))
    return not isinstance(block.get_submodule(path), NonDynamicallyQuantizableLinear)


def _names(target: str, parts: Sequence[str]) -> bool:
    """True if ``target`` names the module at a path within a block."""
    return target == parts[-1] or any(part in GROUPS.get(target, ()) for part in parts[:-1])


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ValueError("model.lora needs the library peft: pip install 'grainclip[lora]'") from error
