"""AdamW in named groups (`parameter_groups`), linear warm-up, cosine decay.

Each tower, new modules (β-CLIP's pooling block...) and temperatures have learning rates of their own. Parameters of one
axis (norms, biases, temperatures) are not decayed; class token and position tables are, as in the published code. The
schedule counts optimiser steps. The published β-CLIP run: towers 1e-5, pooling 1e-3, AdamW (0.9, 0.98), weight decay
0.01, warm-up over 1 % of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from lightning_modules.methods.parameter_groups import parameter_groups
from lightning_modules.networks import Encoder
from lightning_modules.networks.temperature import Temperature


@dataclass(frozen=True)
class OptimConfig:
    """Settings of AdamW and of the learning rate's schedule.

    Args:
        lr: peak learning rate of the towers.
        image_lr: of the image tower; None: ``lr``.
        text_lr: of the text tower; None: ``lr``.
        layer_decay: factor on the rate from a tower's block to the one before it; the last block has the tower's rate,
            the embeddings the least. 1: none.
        added_modules_lr: of modules that the method adds (pooling block) and of LoRA's adapters; None: ``lr``.
        temperature_lr: of all temperatures; None: ``lr``.
        weight_decay: on matrices; vectors (norms, biases, temperatures) are not decayed.
        betas: AdamW's running averages.
        eps: AdamW's epsilon.
        warmup_steps: optimiser steps of linear warm-up.
        final_lr_ratio: each learning rate at the last step, as a share of its peak.
    """

    lr: float = 1e-3
    image_lr: float | None = None
    text_lr: float | None = None
    layer_decay: float = 1.0
    added_modules_lr: float | None = None
    temperature_lr: float | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    warmup_steps: int = 100
    final_lr_ratio: float = 0.01

    def __post_init__(self) -> None:
        for name in ("lr", "image_lr", "text_lr", "added_modules_lr", "temperature_lr"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"optim.{name} must be 0 or more, got {value}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optim.layer_decay must lie in (0, 1], got {self.layer_decay}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"optim.weight_decay must be 0 or more, got {self.weight_decay}")
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"optim.betas must lie in [0, 1), got {self.betas}")
        if self.eps <= 0:
            raise ValueError(f"optim.eps must be above 0, got {self.eps}")
        if self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps must be 0 or more, got {self.warmup_steps}")
        if not 0 <= self.final_lr_ratio <= 1:
            raise ValueError(
                f"optim.final_lr_ratio is a share of the peak and must lie in [0, 1], got {self.final_lr_ratio}"
            )


class ScheduleError(ValueError):
    """Training has no end, and a schedule needs one."""

    def __init__(self) -> None:
        super().__init__(
            "trainer.max_epochs or trainer.max_steps must say where training ends, since learning rates fall until "
            "then; got -1 (no end) for both"
        )


def adamw(model: nn.Module, new_modules: Iterable[nn.Module], config: OptimConfig, fused: bool = True) -> AdamW:
    """AdamW over all trained parameters of ``model``, whose module ``encoder`` has the towers, in named groups."""
    encoder = model.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    groups = parameter_groups(model, encoder, new_modules, config)
    optimizer = AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
    optimizer.register_load_state_dict_pre_hook(_fit_state)
    return optimizer


def _fit_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's state in the groups and with the settings of ``optimizer``: averages and counts are loaded by the
    parameters' names, settings are not. Newly trained parameters start without averages; those no longer trained lose
    theirs.
    """
    key_of = _keys_by_name(state["param_groups"])
    if key_of is None and len(state["param_groups"]) != len(optimizer.param_groups):
        return state  # PyTorch reports the difference
    groups = []
    for number, group in enumerate(optimizer.param_groups):
        settings = {name: value for name, value in group.items() if name != "params"}
        if key_of is None:
            keys = state["param_groups"][number]["params"]
        else:
            keys = [key_of.get(name, name) for name in group["param_names"]]
        groups.append(settings | {"params": keys})
    loaded = {key for group in groups for key in group["params"]}
    return {**state, "state": {k: v for k, v in state["state"].items() if k in loaded}, "param_groups": groups}


def _keys_by_name(groups: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The key of each parameter's averages in a saved state; None where it has no names. FSDP2's keys are the names."""
    keys: dict[str, Any] = {}
    for group in groups:
        is_named = all(isinstance(key, str) for key in group["params"])
        names = group["params"] if is_named else group.get("param_names")
        if names is None:
            return None
        keys |= dict(zip(names, group["params"], strict=True))
    return keys


def clip_gradients(optimizer: Optimizer, limit: float, by_value: bool = False) -> None:
    """Scale all gradients so that their norm, over all parameters and all ranks' shards, is at most ``limit``;
    ``by_value``: clamp each number to ± ``limit``.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if by_value:
        clip_grad_value_(parameters, limit)
    else:
        clip_grad_norm_(parameters, limit)


def clamp_temperatures(model: nn.Module) -> None:
    """Keep all logit scales in their range: between 1 and 100, as in CLIP, where their family sets no other."""
    for module in model.modules():
        if isinstance(module, Temperature):
            module.clamp_()


def warmup_cosine(optimizer: AdamW, config: OptimConfig, total_steps: float) -> LambdaLR:
    """Schedule of every group's rate: linear warm-up, then a cosine down to ``final_lr_ratio`` of the peak.

    Raises:
        ScheduleError: where training has no end.
    """
    if not math.isfinite(total_steps):
        raise ScheduleError

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
        return config.final_lr_ratio + (1 - config.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    return StepSchedule(optimizer, factor)


class StepSchedule(LambdaLR):
    """Learning rates as a function of the step alone: a resumed run takes the step from its checkpoint, and peaks and
    length from its config.
    """

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the count of steps, and set each group's rate for the next one."""
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        rates = [base * factor(self.last_epoch) for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates
