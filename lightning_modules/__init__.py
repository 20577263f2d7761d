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
    from lightning_modules.harmo_clip import HarmoClip
    from lightning_modules.mul_clip import MulClip
    from lightning_modules.multi_positive import MultiPositiveClip
    from lightning_modules.optim import OptimConfig
    from lightning_modules.region_targets import CropTarget, ImageTarget, PhraseTarget, RegionTarget

_HOMES = {
    "BetaClip": "lightning_modules.beta_clip",
    "ClipFinetune": "lightning_modules.clip",
    "CropTarget": "lightning_modules.region_targets",
    "Features": "lightning_modules.base",
    "HarmoClip": "lightning_modules.harmo_clip",
    "ImageTarget": "lightning_modules.region_targets",
    "Method": "lightning_modules.base",
    "MulClip": "lightning_modules.mul_clip",
    "MultiPositiveClip": "lightning_modules.multi_positive",
    "OptimConfig": "lightning_modules.optim",
    "PhraseTarget": "lightning_modules.region_targets",
    "RegionTarget": "lightning_modules.region_targets",
}

__all__ = [
    "BetaClip",
    "ClipFinetune",
    "CropTarget",
    "Features",
    "HarmoClip",
    "ImageTarget",
    "Method",
    "MulClip",
    "MultiPositiveClip",
    "OptimConfig",
    "PhraseTarget",
    "RegionTarget",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
