"""The methods as LightningModules, the networks, the callbacks and the command.

Names are imported when they are first asked for, so that ``lightning --help`` need not wait for torch.

The packages ``datamodules``, ``eval`` and ``losses`` lie beside this one under common names. A file or folder of the
user's that comes first on Python's path would hide them: then ours are loaded all the same when this package is
imported, and one line says so.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.cli.loaded_model import LoadedModel as LoadedModel
    from lightning_modules.cli.loaded_model import load_model as load_model
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
_FILES = {name: f"methods.{file}" for name, file in METHODS.items()} | {
    "CropTarget": "methods.harmo_region_losses",
    "Features": "methods.base",
    "ImageTarget": "methods.harmo_region_losses",
    "LoadedModel": "cli.loaded_model",
    "Method": "methods.base",
    "OptimConfig": "methods.optimizers",
    "PhraseTarget": "methods.harmo_region_losses",
    "RegionTarget": "methods.harmo_region_losses",
    "load_model": "cli.loaded_model",
}

__all__ = sorted(_FILES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"lightning_modules.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)


NEIGHBOURS = ("datamodules", "eval", "losses")
_PLACE = Path(__file__).resolve().parents[1]


def _claim(name: str) -> None:
    """See to it that the package ``name`` beside this one is imported under its name.

    Raises:
        ImportError: another file or folder is imported under that name already.
    """
    loaded = sys.modules.get(name)
    spec = find_spec(name) if loaded is None else getattr(loaded, "__spec__", None)
    found = _found_at(spec)
    if found is None and loaded is not None:
        found = getattr(loaded, "__file__", None) or "a module without a file"
    if found is None or Path(found).resolve().is_relative_to(_PLACE / name):
        return
    if loaded is not None:
        raise ImportError(
            f"{found} is imported as {name!r} and hides GrainCLIP's package of that name: rename it, or import "
            "lightning_modules first, in a new Python"
        )
    file = _PLACE / name / "__init__.py"
    ours = spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    if ours is None or ours.loader is None:
        raise ImportError(f"{file}: GrainCLIP's package {name!r} is not there, install it again")
    module = module_from_spec(ours)
    sys.modules[name] = module
    ours.loader.exec_module(module)
    logging.getLogger("grainclip").warning(
        "`import %s` is GrainCLIP's package here, not %s: rename that file or folder to import it", name, found
    )


def _found_at(spec: ModuleSpec | None) -> str | None:
    return None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)


def _search_working_folder_last() -> None:
    """Move the working folder to the end of Python's path, where ``python -m lightning_modules`` has it first.

    As in the commands, the user's own methods are found there, and none of their files hides a package.
    """
    is_command = sys.argv[:1] == ["-m"] and __name__ in sys.orig_argv  # as it is while Python looks for the package
    if is_command and sys.path[0] in ("", os.getcwd()) and Path.cwd() != _PLACE:
        sys.path.append(sys.path.pop(0))


_search_working_folder_last()
for _name in NEIGHBOURS:
    _claim(_name)
