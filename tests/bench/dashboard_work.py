"""Cost of the dashboards: seconds of each of their parts, and their share of a run of ``configs/beta_bce.yaml``.

A short run of that method in a fresh process, so that the first drawing counts with all that it loads, as it does in a
run. Steps and parts are timed side by side in it. The share is of steps and dashboards alone: with the run's
validations it is smaller.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

STEPS, LOGGED, LOOKED, WARM = 35, 10, 20, 5  # of the short run; logged and looked at once in so many; not timed first
RUN_STEPS = 220  # of the config; it looks every 250 steps, draws before training and after each of two validations
TIMES = {
    "start": 1,
    "look": 0,
    "images": 3,
    "gradient norms": RUN_STEPS // LOGGED,
    "loss by grain": RUN_STEPS // LOGGED,
}


def share(device: str = "cpu") -> list[dict[str, Any]]:
    """A row for each part and one for all."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # its process may have a data worker
        seconds = pool.submit(_measure, device).result()
    rows: list[dict[str, Any]] = [
        {"part": part, "seconds": seconds[part], "in the run": times} for part, times in TIMES.items()
    ]
    whole = sum(seconds[part] * times for part, times in TIMES.items())
    rows.append({"part": "a step of training", "seconds": seconds["step"], "in the run": RUN_STEPS})
    share = whole / (whole + RUN_STEPS * seconds["step"])
    return [*rows, {"part": "all dashboards, share of the run", "seconds": whole, "share": share}]


def _measure(device: str) -> dict[str, float]:
    from lightning import Callback, Trainer, seed_everything
    from lightning.pytorch.loggers import TensorBoardLogger

    from datamodules import GrainSampling, GranularityData
    from lightning_modules.callbacks import Diagnostics, SampleImages

    seed_everything(0)
    method, images, diagnostics = config_method(), SampleImages(), Diagnostics(LOOKED)
    spent: dict[str, float] = defaultdict(float)
    for owner, hook, part in (
        (diagnostics, "on_train_start", "start"),
        (images, "on_train_start", "images"),
        (images, "on_train_end", "images"),
        (diagnostics, "on_train_batch_end", "look"),
        (diagnostics, "on_before_optimizer_step", "gradient norms"),
        (method, "extra_metrics", "loss by grain"),
    ):
        setattr(owner, hook, _timed(getattr(owner, hook), part, spent))
    ends: list[float] = []

    class Ends(Callback):
        """End times of the steps, without the dashboards' time."""

        def on_train_batch_end(self, *_: Any) -> None:
            ends.append(time.perf_counter() - sum(spent.values()))

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=STEPS, accelerator=device, devices=1, num_sanity_val_steps=0, log_every_n_steps=LOGGED,
            limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            logger=TensorBoardLogger(folder, "", ""), callbacks=[diagnostics, images, Ends()],
        )  # fmt: skip
        trainer.fit(method, GranularityData(sampling=GrainSampling(2, 5), num_workers=1))
    assert ends[-1] > ends[WARM]
    # one look, at step 20: what is measured at the end is embedded for the images, and in their time
    spent["images"] /= 2  # drawn at the start and at the end
    for part in ("gradient norms", "loss by grain"):
        spent[part] /= STEPS // LOGGED
    return {**spent, "step": (ends[-1] - ends[WARM]) / (STEPS - 1 - WARM)}


def config_method() -> Any:
    """The model of the config, from scratch."""
    import yaml

    from lightning_modules import BetaClip, OptimConfig
    from lightning_modules.networks import EncoderConfig

    config = Path(__file__).resolve().parents[2] / "configs" / "beta_bce.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["init_args"]
    encoder, optim = EncoderConfig(**settings.pop("encoder")), OptimConfig(**settings.pop("optim"))
    return BetaClip(encoder=encoder, optim=optim, **settings)


def _timed(work: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*given: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        try:
            return work(*given, **named)
        finally:
            spent[part] += time.perf_counter() - begin

    return timed
