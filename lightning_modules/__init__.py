"""The methods as LightningModules, the networks, the callbacks and the command.

Names are imported when they are first asked for, so that ``lightning --help`` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.base import Features, Method
    from lightning_modules.beta_clip import BetaClip
    from lightning_modules.clip import ClipFinetune
    from lightning_modules.mul_clip import MulClip
    from lightning_modules.optim import OptimConfig

_HOMES = {
    "BetaClip": "lightning_modules.beta_clip",
    "ClipFinetune": "lightning_modules.clip",
    "Features": "lightning_modules.base",
    "Method": "lightning_modules.base",
    "MulClip": "lightning_modules.mul_clip",
    "OptimConfig": "lightning_modules.optim",
}

__all__ = ["BetaClip", "ClipFinetune", "Features", "Method", "MulClip", "OptimConfig"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
