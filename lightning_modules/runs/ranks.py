"""The place of this process among those of a run, before they are connected."""

from __future__ import annotations

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment


def rank(trainer: Trainer) -> int:
    """This process's number among all of the run's."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None:
        return 0
    if isinstance(environment, LightningEnvironment):  # its global rank is not set yet
        return environment.node_rank() * trainer.num_devices + environment.local_rank()
    return environment.global_rank()


def waits_for_nobody(trainer: Trainer) -> bool:
    """True if no other rank runs yet: this process may end without leaving them alone."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or trainer.world_size == 1:
        return True
    return trainer.num_nodes == 1 and not environment.creates_processes_externally


def started_by_another_rank(trainer: Trainer) -> bool:
    """True if Lightning's launcher on rank 0 started this process. It kills all where one of them ends with a status
    other than 0, so those end with 0.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
