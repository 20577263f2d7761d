"""The numbers of the last validation: as a table in the terminal and in the loggers, and as ``results.json``."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from typing_extensions import override

from eval import table, write_json
from lightning_modules.boards.all_boards import Boards
from lightning_modules.boards.layout import is_fraction
from lightning_modules.callbacks.checkpoints import BestCheckpoint
from lightning_modules.runs.measured import measured_step, place_of_results


class ResultTable(Callback):
    """Prints the table when training or ``lightning validate`` ends, and writes it to the run's folder.

    After training it also prints the best value of the number that ``best.ckpt`` monitors, and its step.
    """

    def __init__(self) -> None:
        self.best: tuple[float, int] | None = None  # value and step

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        keeper = _keeper(trainer)
        if keeper is not None and keeper.best_model_score is None:
            self.best = None  # it was of another run, or of another number

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module)
        if trainer.is_global_zero and (numbers := _numbers(trainer, "val/")):
            rows = [(name.removeprefix("val/"), number) for name, number in numbers.items()]
            Boards(trainer.loggers, ("tables",)).table("results", ("name", "value"), rows, trainer.global_step)
        keeper = _keeper(trainer)
        if self.best is not None and keeper is not None and trainer.is_global_zero:
            value, step = self.best
            name = str(keeper.monitor).removeprefix("val/")
            line = f"best {name}: {f'{100 * value:.1f}%' if is_fraction(name) else f'{value:.4g}'} at step {step}"
            line += f", kept in {keeper.best_model_path}" if keeper.best_model_path else ""
            Console().print(line, markup=False, highlight=False, soft_wrap=True)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, _numbers(trainer, "test/") | _numbers(trainer, "benchmark/"))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._show(trainer, pl_module)
        elif trainer.state.fn == "fit" and not trainer.sanity_checking and (keeper := _keeper(trainer)) is not None:
            value = trainer.callback_metrics.get(str(keeper.monitor))
            if value is not None and (self.best is None or value.item() > self.best[0]):
                self.best = value.item(), trainer.global_step

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        numbers = _numbers(trainer, "val/")
        if trainer.is_global_zero and numbers:
            title = f"{type(pl_module).__name__} after {measured_step(trainer, pl_module)} steps"
            Console().print(table({name.removeprefix("val/"): number for name, number in numbers.items()}, title=title))
        self._write(trainer, pl_module, numbers)

    def _write(self, trainer: Trainer, pl_module: LightningModule, numbers: dict[str, float]) -> None:
        folder = place_of_results(trainer)
        if trainer.is_global_zero and numbers and folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            settings = {"method": type(pl_module).__name__, "step": measured_step(trainer, pl_module)}
            by_name = {name.removeprefix("val/").removeprefix("test/"): number for name, number in numbers.items()}
            write_json(folder / "results.json", by_name, settings)


def _numbers(trainer: Trainer, kind: str) -> dict[str, float]:
    """The numbers of a kind, losses left out."""
    return {
        name: value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith(kind) and not name.startswith(f"{kind}loss")
    }


def _keeper(trainer: Trainer) -> BestCheckpoint | None:
    """The callback that keeps ``best.ckpt``."""
    return next((c for c in vars(trainer)["callbacks"] if isinstance(c, BestCheckpoint)), None)
