"""``lightning demo``: what fine-tuning on long captions does to a small CLIP, in three minutes on two cores.

CLIP's own loss and GrainClip start from the same base model and train by the same steps, side by side, as ordinary runs
of ``lightning fit``. The base and both results are then measured here, on the same held-out scenes, and GrainClip's
model is shown one of them. Started again, it goes on where it stopped, and measures again.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from lightning import Trainer
from rich.console import Console
from rich.table import Table

from datamodules import GrainSampling, GranularityData, SceneSet, scenes
from datamodules.atomic_write import atomic_write
from datamodules.image_decoding import as_rgb, open_image
from datamodules.sample import Sample
from eval.drawing.canvas import png
from eval.drawing.heat import heat_figure
from lightning_modules.cli.evaluate import load_model
from lightning_modules.cli.explain import explain
from lightning_modules.cli.log_noise import silence
from lightning_modules.cli.output_paths import make_folder
from lightning_modules.errors import fail
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.methods.clip import ClipFinetune

BASE = "scenes-base"
RUNS = {"demo_clip": "configs/clip.yaml", "demo_grainclip": "configs/grainclip.yaml"}
SCENES = SceneSet(held_out=512)
STEPS = 110
COLUMNS = {  # of the table, with the numbers below
    "text to image": "caption/text_to_image/R@1",
    "image to text": "caption/image_to_text/R@1",
    "hard": "hard_negatives/hard/accuracy",
    "medium": "hard_negatives/medium/accuracy",
    "easy": "hard_negatives/easy/accuracy",
    "boxes": "boxes/top1",
}
SHOWN, PHRASES = 3, 4  # the held-out scene of the image, and how many of its phrases


def run(args: Namespace) -> int:
    """The command; ``SystemExit(1)`` with one line where a training run fails."""
    start = time.perf_counter()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    silence()
    try:
        make_folder(args.runs, "--runs")
    except ValueError as error:
        fail(str(error))
    scenes.ensure_shards(**asdict(SCENES))
    show = Console(soft_wrap=True).print
    show(f"CLIP and GrainClip fine-tune {BASE} by {STEPS} steps of 64 images each, side by side")
    _train(args.runs)
    checkpoints = {name: args.runs / name / "checkpoints" / "last.ckpt" for name in RUNS}
    sources = {"before": BASE, **{name: str(path) for name, path in checkpoints.items()}}
    titles = {"before": "before", "demo_clip": "CLIP, by the same steps", "demo_grainclip": "GrainClip"}
    models = {titles[name]: load_model(source, torch.device("cpu"))[0] for name, source in sources.items()}
    numbers = {name: measure(model, SCENES, "held_out", GrainSampling(0, 0)) for name, model in models.items()}
    Console().print(_table(numbers))
    drawing = args.runs / "demo_grainclip" / "where.png"
    model, _ = load_model(str(checkpoints["demo_grainclip"]), torch.device("cpu"))
    draw(model, scenes.sample(SHOWN, "held_out"), drawing)
    show(f"where phrases of a scene are seen: {drawing}")
    show(f"curves: tensorboard --logdir {args.runs}; all of it took {time.perf_counter() - start:.0f} s")
    return 0


def _train(runs: Path) -> None:
    """Train both models, each in a process of its own with its share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // len(RUNS))
    settings = {
        "runs": str(runs), "model.pretrained": BASE, "trainer.max_epochs": "-1", "trainer.max_steps": str(STEPS),
        "trainer.limit_val_batches": "0", "trainer.enable_progress_bar": "false", "trainer.log_every_n_steps": "10",
        "trainer.accelerator": "cpu", "data.num_workers": "0",
        "images.every_n_steps": "0", "diagnostics.every_n_steps": "0",
    }  # fmt: skip
    settings |= {f"data.scenes.{name}": str(value) for name, value in asdict(SCENES).items() if name != "size"}
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, config in RUNS.items():
            command = [sys.executable, "-m", "lightning_modules", "fit", "--config", config, "--name", name, *words]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            with (runs / f"{name}.log").open("w", encoding="utf-8") as log:
                processes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True)
        _watch(processes, runs)
    finally:
        for process in processes.values():
            process.terminate()
    for name, process in processes.items():
        if process.returncode:
            lines = (runs / f"{name}.log").read_text(encoding="utf-8").strip().splitlines()
            fail(f"training {name} failed: {lines[-1] if lines else 'it said nothing'}; see {runs / f'{name}.log'}")


def _watch(processes: Mapping[str, subprocess.Popen[str]], runs: Path) -> None:
    """Show the last line of each log until both processes end, or one fails."""
    with Console().status("starting") as status:
        while any(process.poll() is None for process in processes.values()):
            if any(process.poll() for process in processes.values()):
                return
            lines = [_last_step(runs / f"{name}.log") for name in processes]
            status.update(
                " | ".join(f"{name.removeprefix('demo_')}: {line}" for name, line in zip(processes, lines, strict=True))
            )
            time.sleep(0.5)


def _last_step(log: Path) -> str:
    steps = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("step ")]
    return ",".join(steps[-1].split(",")[:2]) if steps else "starting"


def measure(
    model: EvaluationModel, scene_set: SceneSet, split: Literal["dev", "held_out"], sampling: GrainSampling
) -> dict[str, float]:
    """The numbers of a validation on the ``held_out`` or the ``dev`` scenes, in fp32."""
    method = ClipFinetune(encoder=model.encoder.config)
    method.encoder = model.encoder
    context = model.encoder.context_length
    data = GranularityData(context_length=context, sampling=sampling, num_workers=0, scenes=scene_set)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    numbers = (trainer.test if split == "held_out" else trainer.validate)(method, data, verbose=False)[0]
    return {name.partition("/")[2]: number for name, number in numbers.items() if "/loss" not in name}


def draw(model: EvaluationModel, sample: Sample, file: Path) -> None:
    """Draw the pooling block's attention for the longest phrases of a sample that name a box."""
    boxed_phrases = {region.phrase for region in sample.regions}
    phrases = [phrase.text for number, phrase in enumerate(sample.phrases) if number in boxed_phrases]
    texts = sorted(dict.fromkeys(phrases), key=len, reverse=True)[:PHRASES]
    image = as_rgb(open_image(sample.image))
    heat, _ = explain(model, image, texts)
    with atomic_write(file) as draft:
        draft.write_bytes(png(heat_figure(image, texts, heat, "GrainClip: where phrases of a held-out scene are seen")))


def _table(numbers: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(
        title=f"{SCENES.held_out} held-out scenes, percent: captions R@1; details told apart; boxes named",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for model, values in numbers.items():
        table.add_row(model, *(f"{100 * values[name]:.1f}" for name in COLUMNS.values()))
    return table
