"""The numbers of the last validation, as a table in the terminal and as ``results.json`` beside the logs."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from typing_extensions import override

from eval import table, write_json
from lightning_modules.runs.measured import measured_step, place_of_results


class ResultTable(Callback):
    """Prints the table when training or ``lightning validate`` ends, and writes it to the run's folder."""

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, _numbers(trainer, "test/") | _numbers(trainer, "benchmark/"))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._show(trainer, pl_module)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        numbers = _numbers(trainer, "val/")
        if trainer.is_global_zero and numbers:
            title = f"{type(pl_module).__name__} after {measured_step(trainer)} steps"
            Console().print(table({name.removeprefix("val/"): number for name, number in numbers.items()}, title=title))
        self._write(trainer, pl_module, numbers)

    def _write(self, trainer: Trainer, pl_module: LightningModule, numbers: dict[str, float]) -> None:
        folder = place_of_results(trainer)
        if trainer.is_global_zero and numbers and folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            settings = {"method": type(pl_module).__name__, "step": measured_step(trainer)}
            named = {name.removeprefix("val/").removeprefix("test/"): number for name, number in numbers.items()}
            write_json(folder / "results.json", named, settings)


def _numbers(trainer: Trainer, kind: str) -> dict[str, float]:
    """The numbers of a kind, losses left out."""
    return {
        name: value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith(kind) and not name.startswith(f"{kind}loss")
    }
