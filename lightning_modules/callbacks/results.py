"""The numbers of the last validation, as a table in the terminal and as ``results.json`` beside the logs."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from typing_extensions import override

from eval import table, write_json


class ResultTable(Callback):
    """Prints the table when training or ``lightning validate`` ends, and writes it to the logger's folder."""

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._show(trainer, pl_module)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        numbers = {
            name.removeprefix("val/"): value.item()
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/") and not name.startswith("val/loss")
        }
        log_dir = trainer.log_dir  # asks rank 0: every rank must
        if not (trainer.is_global_zero and numbers):
            return
        title = f"{type(pl_module).__name__} after {trainer.global_step} steps"
        Console().print(table(numbers, title=title))
        if log_dir is not None:
            folder = Path(log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(
                folder / "results.json", numbers, {"method": type(pl_module).__name__, "step": trainer.global_step}
            )
