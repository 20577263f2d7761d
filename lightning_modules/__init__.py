"""The methods as LightningModules, the networks, the callbacks and the command.

Names are imported when they are first asked for, so that ``lightning --help`` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.methods.base import Features, Method
    from lightning_modules.methods.beta_clip import BetaClip
    from lightning_modules.methods.clip import ClipFinetune
    from lightning_modules.methods.grain_clip import GrainClip
    from lightning_modules.methods.harmo_clip import HarmoClip
    from lightning_modules.methods.harmo_region_losses import CropTarget, ImageTarget, PhraseTarget, RegionTarget
    from lightning_modules.methods.mul_clip import MulClip
    from lightning_modules.methods.multi_positive_clip import MultiPositiveClip
    from lightning_modules.methods.optimizers import OptimConfig

_HOMES = {
    "BetaClip": "lightning_modules.methods.beta_clip",
    "ClipFinetune": "lightning_modules.methods.clip",
    "CropTarget": "lightning_modules.methods.harmo_region_losses",
    "Features": "lightning_modules.methods.base",
    "GrainClip": "lightning_modules.methods.grain_clip",
    "HarmoClip": "lightning_modules.methods.harmo_clip",
    "ImageTarget": "lightning_modules.methods.harmo_region_losses",
    "Method": "lightning_modules.methods.base",
    "MulClip": "lightning_modules.methods.mul_clip",
    "MultiPositiveClip": "lightning_modules.methods.multi_positive_clip",
    "OptimConfig": "lightning_modules.methods.optimizers",
    "PhraseTarget": "lightning_modules.methods.harmo_region_losses",
    "RegionTarget": "lightning_modules.methods.harmo_region_losses",
}

__all__ = [
    "BetaClip",
    "ClipFinetune",
    "CropTarget",
    "Features",
    "GrainClip",
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
    _check_neighbours()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)


def _check_neighbours() -> None:
    """Raise ImportError where a file or folder of the user's hides a package that lies beside this one."""
    for name in ("datamodules", "eval", "losses"):
        spec = find_spec(name)
        place = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        if place is not None and not Path(place).resolve().is_relative_to(Path(__file__).resolve().parents[1] / name):
            raise ImportError(
                f"{place} hides GrainCLIP's package {name!r}: rename it, or start Python in another folder"
            )
