"""Where a model comes from, kept in every checkpoint: sizes, method, data, numbers, version and commit of the code.

So a checkpoint can become a published model (``lightning export``) without the command that trained it.
"""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules import GranularityData

if TYPE_CHECKING:
    from lightning_modules.base import Method

KEY = "grainclip"


def provenance(method: Method) -> dict[str, Any]:
    """Plain numbers and words about a method and its run, for its checkpoint."""
    data = getattr(method.trainer, "datamodule", None)
    return {
        "version": version("grainclip"),
        "commit": commit(),
        "method": type(method).__name__,
        "encoder": asdict(method.encoder.config),
        "student_share": method.student_share,
        "settings": {name: _plain(value) for name, value in method.hparams.items() if not name.startswith("_")},
        "data": data.describe() if isinstance(data, GranularityData) else {},
        "steps": method.trainer.global_step,
        "numbers": dict(method.numbers),
    }


@lru_cache(maxsize=1)
def commit() -> str:
    """Commit of the code that runs, marked where files differ from it; "unknown" outside a checkout."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return "unknown"
    git = ["git", "-C", str(here), "describe", "--always", "--dirty=, modified", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
