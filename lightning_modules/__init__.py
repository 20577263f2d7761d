"""The methods as LightningModules, the networks, the callbacks and the command.

Names are imported when they are first asked for, so that ``lightning --help`` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.methods.base import Features as Features
    from lightning_modules.methods.base import Method as Method
    from lightning_modules.methods.beta_clip import BetaClip as BetaClip
    from lightning_modules.methods.clip import ClipFinetune as ClipFinetune
    from lightning_modules.methods.grain_clip import GrainClip as GrainClip
    from lightning_modules.methods.harmo_clip import HarmoClip as HarmoClip
    from lightning_modules.methods.harmo_region_losses import CropTarget as CropTarget
    from lightning_modules.methods.harmo_region_losses import ImageTarget as ImageTarget
    from lightning_modules.methods.harmo_region_losses import PhraseTarget as PhraseTarget
    from lightning_modules.methods.harmo_region_losses import RegionTarget as RegionTarget
    from lightning_modules.methods.mul_clip import MulClip as MulClip
    from lightning_modules.methods.multi_positive_clip import MultiPositiveClip as MultiPositiveClip
    from lightning_modules.methods.optimizers import OptimConfig as OptimConfig

METHODS = {  # class and file; a new method is entered here, and nowhere else
    "BetaClip": "beta_clip",
    "ClipFinetune": "clip",
    "GrainClip": "grain_clip",
    "HarmoClip": "harmo_clip",
    "MulClip": "mul_clip",
    "MultiPositiveClip": "multi_positive_clip",
}
_FILES = METHODS | {
    "CropTarget": "harmo_region_losses",
    "Features": "base",
    "ImageTarget": "harmo_region_losses",
    "Method": "base",
    "OptimConfig": "optimizers",
    "PhraseTarget": "harmo_region_losses",
    "RegionTarget": "harmo_region_losses",
}

__all__ = sorted(_FILES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _check_neighbours()
    return getattr(import_module(f"lightning_modules.methods.{_FILES[name]}"), name)


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
