"""Provenance of a model in its checkpoint: sizes, method, data, numbers, version and commit of the code.

With it, ``lightning export`` makes a published model of a checkpoint, without the command that trained it.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from datamodules import GranularityData
from lightning_modules.networks.contract import plain_config, shown_config
from lightning_modules.networks.weights.files import KEY

if TYPE_CHECKING:
    from lightning_modules.methods.base import Method

logger = logging.getLogger("grainclip")


def provenance(method: Method) -> dict[str, Any]:
    """Provenance of a method and its run, as plain numbers and strings."""
    data = getattr(method.trainer, "datamodule", None)
    return {
        "version": version("grainclip"),
        "commit": commit(),
        "method": type(method).__name__,
        "encoder": plain_config(method.encoder.config),
        "student_share": method.student_share,
        "lora": None if method.lora is None else asdict(method.lora),
        "start": method.start,
        "groups": group_sizes(method.trainer.optimizers),
        "settings": _settings(method),
        "data": data.describe() if isinstance(data, GranularityData) else {},
        "steps": method.trainer.global_step,
        "numbers": dict(method.numbers),
        "numbers_step": method.numbers_step,
    }


def group_sizes(optimizers: Iterable[Optimizer]) -> dict[str, int]:
    """The number of parameters in each of the optimisers' groups, by the group's name: what is trained."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    return {group["name"]: len(group["params"]) for group in groups}


def named_source(source: str) -> str:
    """A source of weights as a checkpoint records it: a file or folder by its whole path, a hub id as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def warn_of_changed_settings(method: Method, checkpoint: Mapping[str, Any]) -> None:
    """Log a warning where a checkpoint's method had other settings. The commands refuse them before (``runs.start``); a
    program that calls the trainer itself is only warned.
    """
    before = checkpoint.get(KEY, {}).get("settings", {})
    now = _settings(method)
    ignored = ("encoder", "pretrained", "optim", "memory")  # sizes must fit anyway; the others may change
    names = [name for name in now if name not in ignored and name in before and before[name] != now[name]]
    if names:
        changes = ", ".join(f"{name}: {before[name]} → {now[name]}" for name in names)
        logger.warning("the checkpoint was trained with other settings, these hold from now on: %s", changes)


@lru_cache(maxsize=1)
def commit() -> str:
    """Commit of the running code, marked ", modified" where files differ from it; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    git = ["git", "-C", str(root), "describe", "--always", "--dirty=, modified", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _settings(method: Method) -> dict[str, Any]:
    return {name: _plain(value) for name, value in method.hparams.items() if not name.startswith("_")}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return shown_config(asdict(value)) if hasattr(value, "__dataclass_fields__") else value
