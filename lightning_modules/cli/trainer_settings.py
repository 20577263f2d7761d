"""The trainer's settings, checked before it is made: Lightning's messages name neither the setting nor the value."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from datamodules.spelling import did_you_mean

PROFILERS = ("simple", "advanced", "pytorch", "xla")
MINIMUM = {  # of numbers that Lightning does not check, or refuses without their names
    "accumulate_grad_batches": 1,
    "num_nodes": 1,
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "log_every_n_steps": 0,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "num_sanity_val_steps": -1,
    "limit_train_batches": 0,
    "limit_val_batches": 0,
    "limit_test_batches": 0,
    "val_check_interval": 0,
}
MAX_SEED = 2**32 - 1


class SettingError(ValueError):
    """A setting is out of its range, or asks for a device that this machine lacks; the message names it."""


def check_settings(settings: Namespace) -> None:
    """Check the settings of one command.

    Raises:
        SettingError: naming the setting, the rule and the value.
    """
    seed, trainer = settings.seed_everything, settings.trainer
    if not isinstance(seed, bool) and seed is not None and not 0 <= seed <= MAX_SEED:
        raise SettingError(f"seed_everything must lie in [0, {MAX_SEED}], got {seed}")
    for name, minimum in MINIMUM.items():
        value = trainer.get(name)
        if isinstance(value, (int, float)) and value < minimum:
            raise SettingError(f"trainer.{name} must be at least {minimum}, got {value}")
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches", "val_check_interval"):
        value = trainer.get(name)
        if isinstance(value, float) and value > 1:
            raise SettingError(f"trainer.{name} must be a share in [0, 1] or a whole number, got {value}")
    if trainer.get("overfit_batches"):
        raise SettingError(
            f"trainer.overfit_batches must be 0, got {trainer.overfit_batches}: each epoch would read other samples; "
            "to train on a few, name one small shard in data.shards"
        )
    _check_choice(
        "trainer.accelerator", trainer.accelerator, {"auto", "gpu", *AcceleratorRegistry.available_accelerators()}
    )
    _check_choice("trainer.strategy", trainer.strategy, {"auto", *StrategyRegistry.available_strategies()})
    _check_choice("trainer.profiler", trainer.profiler, PROFILERS)
    if isinstance(trainer.max_time, str) and not re.fullmatch(r"\d+:\d\d?:\d\d?:\d\d?", trainer.max_time):
        raise SettingError(f"trainer.max_time must be DAYS:HOURS:MINUTES:SECONDS, got {trainer.max_time!r}")
    _check_devices(trainer.accelerator, trainer.devices)


def _check_choice(name: str, value: Any, known: Collection[str]) -> None:
    if isinstance(value, str) and value.lower() not in known:
        choices = ", ".join(sorted(known)) if len(known) < 12 else "auto, ddp, ddp_spawn or a class"
        raise SettingError(f"{name} must be one of {choices}, got {value!r}{did_you_mean(value, known)}")


def _check_devices(accelerator: Any, devices: Any) -> None:
    gpu_count = torch.cuda.device_count()
    has_mps = accelerator == "gpu" and torch.backends.mps.is_available()
    if accelerator in ("gpu", "cuda") and not gpu_count and not has_mps:
        raise SettingError(
            f"trainer.accelerator must be one that this machine has, got {accelerator}: torch sees no GPU; "
            "`lightning doctor` tells more, --trainer.accelerator cpu trains without"
        )
    number = int(devices) if re.fullmatch(r"-?\d+", str(devices)) else None
    is_list = re.fullmatch(r"\[?\d+( ?, ?\d+)*,?\]?", str(devices))
    if number is None and not is_list and devices != "auto":
        raise SettingError(f"trainer.devices must be a number of devices, a list of them or auto, got {devices!r}")
    if number is not None and (number < -1 or number == 0):
        raise SettingError(f"trainer.devices must be at least 1, or -1 for all, got {number}")
    uses_gpus = gpu_count > 0 and accelerator in ("gpu", "cuda", "auto")
    if uses_gpus and number is not None and number > gpu_count:
        raise SettingError(f"trainer.devices must be at most {gpu_count}, the GPUs that torch sees here, got {number}")
