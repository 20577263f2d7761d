"""Benchmarks while a model trains, and in ``lightning test``: the same functions as ``lightning evaluate`` runs.

In a config::

    trainer:
      callbacks:
        - class_path: lightning_modules.callbacks.Benchmarks
          init_args: {names: [coco_val2017, "retrieval:mine.csv"], root: DATA, every_n_steps: 1000}

Numbers are logged as ``benchmark/NAME``. Ranks share the work; the weights must be whole on each of them.
"""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.console import Console
from typing_extensions import override

from datamodules.batch import Batch
from eval.benchmarks.catalogue import find_benchmarks
from eval.interfaces import EvalContext
from eval.results.tables import table
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.methods.base import Method
from lightning_modules.networks import TextConditionedPooling


class Benchmarks(Callback):
    """Runs benchmarks every ``every_n_steps`` steps of ``fit``, and once in ``test``.

    Args:
        names: as ``--benchmark`` takes them.
        root: the folder of the data sets in their released layouts.
        every_n_steps: optimiser's steps between two runs in ``fit``; 0: none there.
        batch_size: images encoded at once.
        skip_missing: leave out, and count, images that are missing.

    Raises:
        ValueError: where a name is unknown, two would give numbers of the same names, a number is out of range or the
            root is no folder.
    """

    def __init__(
        self, names: list[str], root: str, every_n_steps: int = 0, batch_size: int = 32, skip_missing: bool = False
    ) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps must be at least 0, got {every_n_steps}")
        if not Path(root).is_dir():
            raise ValueError(f"root must be the folder of the data sets, got {root}")
        self.benchmarks = find_benchmarks(names, "names: ")
        self.settings = EvalContext(Path(root), batch_size, skip_missing)
        self.every_n_steps, self._last = every_n_steps, 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, Method):
            raise ValueError(f"Benchmarks needs a Method, got {type(pl_module).__name__}")
        self.check_trainer(trainer)

    def check_trainer(self, trainer: Trainer) -> None:
        """Raises ``ValueError`` where weights are sharded; ``lightning fit`` asks first."""
        if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy)):
            raise ValueError(f"Benchmarks needs whole weights on each rank, got {type(trainer.strategy).__name__}")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and step != self._last:
            self._last = step
            numbers = self._run(pl_module)
            for logger in trainer.loggers:  # not by pl_module.log, which would log them again at later steps
                logger.log_metrics(numbers, step)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        numbers = self._run(pl_module)
        pl_module.log_dict(numbers, rank_zero_only=False)
        if trainer.is_global_zero and numbers:
            Console().print(table(numbers, title="benchmarks"))

    def _run(self, pl_module: LightningModule) -> dict[str, float]:
        assert isinstance(pl_module, Method)
        encoder, pooling = pl_module.inference_encoder(), getattr(pl_module, "pooling", None)
        pooling = pooling if isinstance(pooling, TextConditionedPooling) else None  # β-CLIP's attention
        networks = [encoder] if pooling is None else [encoder, pooling]
        modes = {module: module.training for network in networks for module in network.modules()}
        try:
            model = EvaluationModel(encoder, pl_module.device, pooling)
            results = [run_benchmark(model, self.settings) for run_benchmark in self.benchmarks]
        finally:
            for module, training in modes.items():
                module.training = training
        return {f"benchmark/{name}": number for result in results for name, number in result.numbers.items()}
