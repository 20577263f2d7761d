"""What the dashboards cost: seconds of each of their parts, and their share of the demo run."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

STEPS, LOGGED = 30, 25  # of the run measured; between two log points, as in the demo
DEMO_STEPS, DEMO_DRAWINGS, DEMO_LOOKS = 440, 1, 2  # with the defaults: at its end, and at step 250


def share(device: str = "cpu") -> list[dict[str, Any]]:
    """A row for each part and one for all, in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # its process may have a data worker
        return pool.submit(_measure, device).result()


def _measure(device: str) -> list[dict[str, Any]]:
    from lightning import Trainer, seed_everything
    from lightning.pytorch.loggers import TensorBoardLogger

    from datamodules import GrainSampling, GranularityData
    from lightning_modules.callbacks import Diagnostics, Pictures

    seed_everything(0)
    method, pictures, diagnostics = demo_method(), Pictures(), Diagnostics()
    spent: dict[str, float] = defaultdict(float)
    calls = Counter[str]()
    for owner, hook, part in (
        (pictures, "on_train_start", "start"),
        (diagnostics, "on_train_start", "start"),
        (pictures, "_draw", "pictures"),
        (diagnostics, "_look", "look"),
        (diagnostics, "on_before_optimizer_step", "gradient norms"),
        (method, "watched", "loss by grain"),
    ):
        setattr(owner, hook, _timed(getattr(owner, hook), part, spent, calls))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=STEPS, accelerator=device, devices=1, num_sanity_val_steps=0, log_every_n_steps=LOGGED,
            limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            logger=TensorBoardLogger(folder, "", ""), callbacks=[pictures, diagnostics],
        )  # fmt: skip
        data = GranularityData(sampling=GrainSampling(2, 5), workers=1)
        begin = time.perf_counter()
        trainer.fit(method, data)
        step = (time.perf_counter() - begin - sum(spent.values())) / STEPS
    logs = DEMO_STEPS // LOGGED
    times = {"start": 1, "pictures": DEMO_DRAWINGS, "look": DEMO_LOOKS, "gradient norms": logs, "loss by grain": logs}
    calls["start"] = calls["gradient norms"] = 1  # both callbacks together; most steps are not logged
    rows = [{"part": part, "seconds": spent[part] / calls[part], "in the demo": n} for part, n in times.items()]
    whole = sum(row["seconds"] * row["in the demo"] for row in rows)
    return [*rows, {"part": "all, share of the demo's steps", "seconds": whole, "share": whole / (DEMO_STEPS * step)}]


def demo_method() -> Any:
    """The model of the demo's config."""
    import yaml

    from lightning_modules import BetaClip, OptimConfig
    from lightning_modules.networks import EncoderConfig

    config = Path(__file__).resolve().parents[2] / "configs" / "beta_bce.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["init_args"]
    encoder, optim = EncoderConfig(**settings.pop("encoder")), OptimConfig(**settings.pop("optim"))
    return BetaClip(encoder=encoder, optim=optim, **settings)


def _timed(work: Callable[..., Any], part: str, spent: dict[str, float], calls: Counter[str]) -> Callable[..., Any]:
    def timed(*given: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        try:
            return work(*given, **named)
        finally:
            spent[part] += time.perf_counter() - begin
            calls[part] += 1

    return timed
