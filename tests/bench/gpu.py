"""``make bench-gpu``: whole training steps of β-CLIP (CE) with ViT-B/16 and ViT-L/14 on a GPU, in bf16.

Each row: images a second, MFU (useful operations of ``callbacks.flops`` as a share of the device's peak), peak
memory, the share of the step that both losses take, forward and backward, with compiled blocks and without. A step is
towers, pooling, losses, gradients and the optimiser's step, on a few batches in turn that lie on the device, so data is
not waited for. Prints a table; ``runs/bench_gpu.json`` has the same numbers. Without a GPU tiny towers run on the CPU:
that tells whether this still works, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SHARED_NLTK = Path(__file__).resolve().parents[3] / "shared" / "nltk_data"
if SHARED_NLTK.is_dir():
    os.environ.setdefault("NLTK_DATA", str(SHARED_NLTK))

from lightning_modules.cli.precision import best_precision  # noqa: E402
from lightning_modules.networks import EncoderConfig, vit_b_16, vit_l_14  # noqa: E402
from tests.bench.run import show  # noqa: E402
from tests.bench.texts import PHRASES, SENTENCES, captions  # noqa: E402

if TYPE_CHECKING:
    from datamodules.batch import Batch
    from lightning_modules import BetaClip

BATCHES = 3  # of other texts each
TINY = EncoderConfig(
    image_size=32, patch_size=16, image_width=32, image_layers=2, image_heads=2,
    text_width=32, text_layers=2, text_heads=2, embed_dim=32,
)  # fmt: skip


class Work(NamedTuple):
    """The work that is measured: towers, images of a batch."""

    name: str
    encoder: EncoderConfig
    images: int


GPU = (Work("ViT-B/16", vit_b_16(), 64), Work("ViT-B/16", vit_b_16(), 256), Work("ViT-L/14", vit_l_14(), 64))
CPU = (Work("tiny", TINY, 4),)


def measure(work: Work, device: torch.device, steps: int, compiled: bool, backend: str) -> dict[str, Any]:
    """One row of the table."""
    from lightning_modules import BetaClip, OptimConfig
    from lightning_modules.callbacks import CompileBlocks
    from lightning_modules.callbacks.peak_flops import peak_flops
    from lightning_modules.methods.optimizers import adamw
    from lightning_modules.networks.flops import training_flops

    torch.manual_seed(0)
    torch._dynamo.reset()
    method = BetaClip("ce", encoder=work.encoder).to(device).train()
    if compiled:
        CompileBlocks(backend=backend).setup(None, method, "fit")  # it needs no trainer
    optimizer = adamw(method, method.new_modules(), OptimConfig(lr=1e-5))
    data = batches(work, device)

    def step(number: int) -> None:
        batch = data[number % BATCHES]
        optimizer.zero_grad()
        with autocast(device):
            loss = torch.stack(list(method.losses(batch, method.features(batch)).values())).sum()
        loss.backward()
        optimizer.step()

    began = time.perf_counter()
    for number in range(2 * BATCHES):
        step(number)
    _wait(device)
    first = time.perf_counter() - began
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = timed(step, steps, device)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    lengths = [batch.texts.offsets.diff().double() for batch in data]
    flops = sum(
        training_flops(work.encoder, work.images, float(one.sum()), float(one.square().sum())) for one in lengths
    )
    best = peak_flops(device, best_precision(device.type))
    return {
        "model": work.name, "images": work.images, "compiled": compiled, "seconds": seconds,
        "images_per_second": work.images / seconds, "teraflops": flops / BATCHES / seconds / 1e12,
        "mfu": None if best is None else flops / BATCHES / seconds / best, "peak_gib": peak,
        "loss_share": loss_seconds(method, data, steps, device) / seconds, "first_steps_seconds": first,
    }  # fmt: skip


def loss_seconds(method: BetaClip, data: Sequence[Batch], steps: int, device: torch.device) -> float:
    """Seconds of CLIP's loss and of β-CAL, forward and backward, from the features of these batches."""
    from datamodules.batch import join
    from lightning_modules.methods.beta_clip import GRAINS

    given = []
    for batch in data:
        queries = join(*(batch.grains[grain] for grain in GRAINS))
        with torch.no_grad(), autocast(device):
            found = method.features(batch)
            texts = found.texts_at(queries)
            views = method.pooling(texts, found.images.patches)
        given.append(([found.images.image, texts, views], queries.valid, batch.texts.ids[queries.index]))

    def step(number: int) -> None:
        features, valid, ids = given[number % BATCHES]
        image, texts, views = (feature.detach().requires_grad_() for feature in features)
        with autocast(device):
            loss = method.clip(image, texts[:, 0], method.encoder.logit_scale)
            loss = loss + method.beta_cal(views, texts, valid, method.pooling.scale, ids)
        loss.backward()

    timed(step, BATCHES, device)
    return timed(step, steps, device)


def timed(step: Callable[[int], None], steps: int, device: torch.device) -> float:
    """Seconds of a step, the mean of ``steps``."""
    _wait(device)
    began = time.perf_counter()
    for number in range(steps):
        step(number)
    _wait(device)
    return (time.perf_counter() - began) / steps


def batches(work: Work, device: torch.device) -> list[Batch]:
    """Some batches on the device: images of the embedded scenes; real captions where they are there."""
    from datamodules import GrainSampling, GranularityData, Squash, scenes
    from datamodules.batching.collate import SamplePreprocessor, collate
    from datamodules.batching.tokenizer import Tokenizer
    from datamodules.granularity.cutting import extract_phrases

    size, length = work.encoder.image_size, work.encoder.context_length
    prepare = SamplePreprocessor(
        size, Squash(), GrainSampling(SENTENCES, PHRASES), Tokenizer(length), random_texts=True
    )
    source, grains = captions(BATCHES * work.images)
    samples = [scenes.sample(i, "train") for i in range(BATCHES * work.images)]
    if source != "scenes":
        samples = [
            replace(s, caption=g.caption, sentences=tuple(g.sentences), regions=(),
                    phrases=tuple(extract_phrases(g.caption, g.sentences)))
            for s, g in zip(samples, grains * len(samples), strict=False)
        ]  # fmt: skip
    items = [prepare(sample, random.Random(i)) for i, sample in enumerate(samples)]
    data = GranularityData(image_size=size, num_workers=0)
    made = [collate(items[i : i + work.images]) for i in range(0, len(items), work.images)]
    return [data.on_after_batch_transfer(data.transfer_batch_to_device(one, device, 0), 0) for one in made]


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bf16 where the hardware has it, as in training."""
    return torch.autocast(device.type, torch.bfloat16, enabled=best_precision(device.type) == "bf16-mixed")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a row")
    parser.add_argument("--backend", default="inductor", help="torch.compile's")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_gpu.json"))
    given = parser.parse_args(arguments)
    console, device = Console(), torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, tiny towers: no measure of anything"
    torch.set_float32_matmul_precision("high")  # TF32 for the losses, which stay out of bf16
    said = {"device": name, "precision": best_precision(device.type), "float32": "high", "torch": torch.__version__}
    rows: list[dict[str, Any]] = []
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for work in GPU if device.type == "cuda" else CPU:
        for compiled in (False, True):
            rows.append(measure(work, device, given.steps, compiled, given.backend))
            given.out.write_text(json.dumps({**said, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    show(console, f"step of β-CLIP, CE: {name}, {said['precision']}", rows)
    console.print(f"written: {given.out}")


if __name__ == "__main__":
    main()
