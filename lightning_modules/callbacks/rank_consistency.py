"""Checks at start-up that all ranks have the same settings, data, code and package versions.

Compared are the settings of model and data, the shards that each rank found, the commit of the code and the versions of
the packages that numbers depend on.
"""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import version
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from datamodules import GranularityData
from datamodules.reading.ranks import gather, rank_count
from lightning_modules.checkpoints.metadata import commit

PACKAGES = ("grainclip", "torch", "lightning", "transformers", "timm")
Facts = dict[str, str]


class Disagreement(ValueError):
    """A difference between ranks, with their hosts."""


class RankConsistency(Callback):
    """Stops a run whose ranks do not agree, by raising ``Disagreement``."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if rank_count() == 1:
            return
        data = getattr(trainer, "datamodule", None)
        facts = {
            "host": socket.gethostname(),
            "code": commit(),
            "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES)
            + f", Python {platform.python_version()}",
            "settings of the model": _digest(pl_module.hparams),
            "settings of the trainer": _digest(
                [trainer.max_epochs, trainer.max_steps, trainer.accumulate_grad_batches]
            ),
            "data": _digest(data.fingerprint()) if isinstance(data, GranularityData) else "",
        }
        compare(gather(facts))


def compare(facts_by_rank: Sequence[Facts]) -> None:
    """Raises ``Disagreement`` where ranks differ in anything but their host."""
    first = facts_by_rank[0]
    for name in (name for name in first if name != "host"):
        differing = [rank for rank, facts in enumerate(facts_by_rank) if facts[name] != first[name]]
        if differing:
            other = facts_by_rank[differing[0]]
            raise Disagreement(
                f"ranks must agree on the {name}: rank 0 on {first['host']} has {first[name]}, "
                f"rank {differing[0]} on {other['host']} has {other[name]} "
                f"({len(differing)} of {len(facts_by_rank)} differ)"
            )


def _digest(value: object) -> str:
    return hashlib.sha256(repr(_plain(value)).encode()).hexdigest()[:12]


def _plain(value: object) -> object:
    """Settings as names and values, so that objects are compared by their content."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (type, Enum, Path, Tensor)) or not hasattr(value, "__dict__"):
        return repr(value)
    return [type(value).__qualname__, _plain(vars(value))]
