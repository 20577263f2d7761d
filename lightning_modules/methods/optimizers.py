"""AdamW in named groups, linear warm-up, cosine decay.

Towers, new modules (β-CLIP's pooling block...) and temperatures have learning rates of their own. Parameters of one
axis (norms, biases, temperatures) are not decayed; class token and position tables are, as in the published code. The
schedule counts optimiser steps. The published β-CLIP run: towers 1e-5, pooling 1e-3, AdamW (0.9, 0.98), weight decay
0.01, warm-up over 1 % of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class OptimConfig:
    """Settings of AdamW and of the learning rate's schedule.

    Args:
        lr: peak learning rate of the towers.
        added_modules_lr: of modules that the method adds (pooling block); None: as the towers.
        temperature_lr: of all temperatures; None: as the towers.
        weight_decay: on matrices; vectors (norms, biases, temperatures) are not decayed.
        betas: AdamW's running averages.
        eps: AdamW's epsilon.
        warmup_steps: optimiser steps of linear warm-up.
        final_lr_ratio: each learning rate at the last step, as a share of its peak.
    """

    lr: float = 1e-3
    added_modules_lr: float | None = None
    temperature_lr: float | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    warmup_steps: int = 100
    final_lr_ratio: float = 0.01

    def __post_init__(self) -> None:
        for name in ("lr", "added_modules_lr", "temperature_lr"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"optim.{name} must be 0 or more, got {value}")
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
    """AdamW over all trainable parameters of ``model``, in the named groups towers, new, temperatures (± decay)."""
    new = {id(p) for module in new_modules for p in module.parameters()}
    rate = {
        "towers": config.lr,
        "new": config.lr if config.added_modules_lr is None else config.added_modules_lr,
        "temperatures": config.lr if config.temperature_lr is None else config.temperature_lr,
    }
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        temperature = name.endswith(("log_scale", "beta_cal.bias", "logit_bias"))  # what shifts and scales logits
        part = "temperatures" if temperature else "new" if id(parameter) in new else "towers"
        decayed = parameter.ndim >= 2 and not temperature
        label = part if decayed or temperature else f"{part}_no_decay"
        decay = config.weight_decay if decayed else 0.0
        group = groups.setdefault(label, {"name": label, "params": [], "lr": rate[part], "weight_decay": decay})
        group["params"].append(parameter)
    optimizer = AdamW(list(groups.values()), lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
    optimizer.register_load_state_dict_pre_hook(_keep_settings)
    return optimizer


def _keep_settings(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's state with the settings of ``optimizer``: averages and counts are loaded, settings are not."""
    current = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    if len(current) != len(state["param_groups"]):
        return state  # PyTorch reports the difference
    groups = [group | settings for group, settings in zip(state["param_groups"], current, strict=True)]
    return {**state, "param_groups": groups}


def clip_gradients(optimizer: Optimizer, limit: float, by_value: bool = False) -> None:
    """Scale all gradients so that their norm, over all parameters and all ranks' shards, is at most ``limit``;
    ``by_value``: clamp each number to ± ``limit``.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if by_value:
        clip_grad_value_(parameters, limit)
    else:
        clip_grad_norm_(parameters, limit)


@torch.no_grad()
def clamp_temperatures(model: nn.Module) -> None:
    """Keep all logit scales between 1 and 100, as in CLIP."""
    for name, parameter in model.named_parameters():
        if name.endswith("log_scale"):
            parameter.clamp_(0.0, MAX_LOG_SCALE)


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
