"""Whole training steps in the precision of training, and the loader.

A step is towers, whatever the method adds, losses, gradients and the optimiser's step, on a few batches in turn that
lie on the device. MFU is the useful operations (``networks/flops.py``) as a share of the device's peak; ``loss_share``
is the time of the losses alone, forward and backward, on the inputs that they get in a step; ``waits`` counts the
operations for which the host waits for the device (CUDA's own debug mode). ``published`` is the step as published code
does it: texts padded to the longest, β-CAL as dense matrices.
"""

from __future__ import annotations

import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules import GrainSampling, GranularityData, Squash, scenes
from datamodules.batch import Batch
from datamodules.batching.collate import SamplePreprocessor, collate
from datamodules.batching.region_sampling import RegionSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.granularity.cutting import extract_phrases
from lightning_modules import (
    BetaClip,
    ClipFinetune,
    CropTarget,
    GrainClip,
    HarmoClip,
    Method,
    MulClip,
    MultiPositiveClip,
    OptimConfig,
)
from lightning_modules.callbacks import CompileBlocks
from lightning_modules.callbacks.peak_flops import peak_flops
from lightning_modules.cli.precision import best_precision
from lightning_modules.methods.batch_indices import text_lengths
from lightning_modules.methods.optimizers import adamw
from lightning_modules.networks import EncoderConfig, vit_b_16, vit_l_14
from tests.bench import tower_work
from tests.bench.texts import captions
from tests.gpu.row import Row
from tests.helpers.tiny import make_sample, picture, write_tar
from tests.helpers.tiny_methods import AS_PUBLISHED

BATCHES = 3  # of other texts each
TINY = EncoderConfig(
    image_size=32, patch_size=16, image_width=32, image_layers=2, image_heads=2,
    text_width=32, text_layers=2, text_heads=2, embed_dim=32,
)  # fmt: skip


class Recipe(NamedTuple):
    """A method, and what it draws from a sample."""

    make: Callable[..., Method]
    sampling: GrainSampling
    regions: RegionSampling | None = None


METHODS: dict[str, Recipe] = {
    "β-CLIP CE": Recipe(partial(BetaClip, "ce"), GrainSampling(5, 30)),
    "β-CLIP BCE": Recipe(partial(BetaClip, "bce"), GrainSampling(5, 30)),
    "CLIP": Recipe(ClipFinetune, GrainSampling(0, 0)),
    "multi-positive CLIP": Recipe(MultiPositiveClip, GrainSampling(5, 0)),
    "MulCLIP": Recipe(partial(MulClip, **AS_PUBLISHED), GrainSampling(6, 0, 1)),
    "HarmoCLIP-style": Recipe(
        partial(HarmoClip, region_losses=[CropTarget()]), GrainSampling(0, 8), RegionSampling(boxes=4, crops=1)
    ),
    "GrainClip": Recipe(GrainClip, GrainSampling(5, 30, summaries=1), RegionSampling(boxes=4, crops=0)),
}


class Work(NamedTuple):
    """Towers, and the images of a batch."""

    encoder: EncoderConfig
    images: int


def works(device: torch.device) -> dict[str, Work]:
    """The towers and batches by name; tiny ones by the same names where there is no GPU."""
    if device.type != "cuda":
        return {name: Work(TINY, 4) for name in ("ViT-B-16, 64", "ViT-B-16, 256", "ViT-L-14, 64")}
    return {
        "ViT-B-16, 64": Work(vit_b_16(), 64),
        "ViT-B-16, 256": Work(vit_b_16(), 256),
        "ViT-L-14, 64": Work(vit_l_14(), 64),
    }


def rows(device: torch.device) -> list[Row]:
    """The rows, the most telling first."""
    work, steps = works(device), 20 if device.type == "cuda" else 3
    first, (base, *larger) = "β-CLIP CE", work
    planned = [(first, name, False) for name in work] + [(first, base, True)]
    planned += [(method, base, False) for method in METHODS if method != first]
    planned += [(first, name, True) for name in larger]
    measured = [
        Row(
            f"speed/{method}, {name}{', compiled' * compiled}",
            partial(step_row, method, work[name], steps, compiled, device),
        )
        for method, name, compiled in planned
    ]
    published = Row(f"speed/published, {base}", partial(published_row, work[base], steps, device))
    return [measured[0], published, *measured[1:], Row("speed/loader, 512 pixels", partial(loader_row, device))]


def step_row(name: str, work: Work, steps: int, compiled: bool, device: torch.device) -> dict[str, Any]:
    """The numbers of a method's step."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    recipe = METHODS[name]
    method = recipe.make(encoder=work.encoder).to(device).train()
    if compiled:
        backend = "inductor" if device.type == "cuda" else "eager"
        CompileBlocks(backend).setup(None, method, "fit")  # pyright: ignore[reportArgumentType] it needs no trainer
    optimizer = adamw(method, method.new_modules(), OptimConfig(lr=1e-5))
    data = batches(recipe, work, device)

    def step(number: int) -> None:
        optimizer.zero_grad()
        backward(method, data[number % BATCHES], device)
        optimizer.step()

    began = time.perf_counter()
    for number in range(2 * BATCHES):
        step(number)
    synchronize(device)
    first = time.perf_counter() - began
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = timed(step, steps, device)
    peak_memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    operations = sum(useful_operations(method, batch) for batch in data) / BATCHES
    best = peak_flops(device, best_precision(device.type))
    return {
        "images": work.images,
        "seconds": seconds,
        "images_per_second": work.images / seconds,
        "teraflops": operations / seconds / 1e12,
        "mfu": None if best is None else operations / seconds / best,
        "peak_gib": peak_memory,
        "loss_share": loss_seconds(method, data[0], steps, device) / seconds,
        "waits": count_waits(step, device),
        "first_steps_seconds": first,
    }


def published_row(work: Work, steps: int, device: torch.device) -> dict[str, Any]:
    """The step as published code does it, on as many images; only the towers' sizes and the texts are the same."""
    step = tower_work.step("old", str(device), work.images, work.encoder)
    step()
    seconds = timed(lambda _: step(), steps, device)
    return {"images": work.images, "seconds": seconds, "images_per_second": work.images / seconds}


def loader_row(device: torch.device) -> dict[str, Any]:
    """Images a second of the loader with all cores, from JPEG of 512 pixels to batches for ViT-B/16, K = 36."""
    side, count, size, batch_size = (512, 1024, 224, 64) if device.type == "cuda" else (64, 32, 32, 8)
    with tempfile.TemporaryDirectory() as folder:
        made = [make_sample(n, image=picture(n % 64, side, side)) for n in range(count)]
        shard = write_tar(Path(folder) / "train-000.tar", made)
        data = GranularityData(
            str(shard), batch_size=batch_size, image_size=size, sampling=METHODS["β-CLIP CE"].sampling
        )
        data.setup("fit")
        images, began = 0, 0.0
        for number, batch in enumerate(data.train_dataloader()):
            if number == 0:
                began = time.perf_counter()  # workers have started
            else:
                images += len(batch.images)
        seconds = time.perf_counter() - began
    return {"images": images, "seconds": seconds, "images_per_second": images / seconds, "workers": data.num_workers}


def backward(method: Method, batch: Batch, device: torch.device) -> None:
    """Losses and gradients of a batch."""
    with autocast(device):
        loss = torch.stack(list(method.losses(batch, method.features(batch)).values())).sum()
    loss.backward()


def useful_operations(method: Method, batch: Batch) -> float:
    """Operations that a step of this batch needs."""
    lengths = text_lengths(batch, method.required_grains())
    images = len(batch.images) + method.further_images(batch)
    tokens, squares = float(lengths.sum()), float((lengths**2).sum())
    return method.encoder.training_flops(images, tokens, squares, method.needs_dense) or 0.0


class Call(NamedTuple):
    """A loss, with the arguments of a call."""

    loss: nn.Module
    arguments: tuple[Any, ...]
    named: dict[str, Any]


def loss_seconds(method: Method, batch: Batch, steps: int, device: torch.device) -> float:
    """Seconds of all losses of a step, forward and backward, from the inputs that they get in it."""
    with recorded_calls(method) as calls, autocast(device):
        method.losses(batch, method.features(batch))

    def step(_: int) -> None:
        with autocast(device):
            total = torch.stack([call.loss(*leaves(call.arguments), **leaves(call.named)) for call in calls]).sum()
        total.backward()

    timed(step, BATCHES, device)
    return timed(step, steps, device)


@contextmanager
def recorded_calls(method: Method) -> Iterator[list[Call]]:
    """The calls of the modules of the package ``losses`` while the block runs, the outermost of nested ones."""
    calls: list[Call] = []
    ours = [module for module in method.modules() if type(module).__module__.startswith("losses.")]
    nested = {id(inner) for module in ours for inner in module.modules() if inner is not module}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, arguments, named: calls.append(Call(module, arguments, named)), with_kwargs=True
        )
        for module in ours
        if id(module) not in nested
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def leaves(arguments: Any) -> Any:
    """The same arguments; tensors that had gradients are new leaves."""
    if isinstance(arguments, Tensor):
        return arguments.detach().requires_grad_(arguments.requires_grad)
    if isinstance(arguments, dict):
        return {name: leaves(value) for name, value in arguments.items()}
    return tuple(map(leaves, arguments)) if isinstance(arguments, tuple) else arguments


def count_waits(step: Callable[[int], None], device: torch.device) -> int | None:
    """Operations of a step for which the host waits for the device; None without a GPU."""
    if device.type != "cuda":
        return None
    step(0)
    torch.cuda.synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def timed(step: Callable[[int], None], steps: int, device: torch.device) -> float:
    """Seconds of a step, the mean of ``steps``."""
    synchronize(device)
    began = time.perf_counter()
    for number in range(steps):
        step(number)
    synchronize(device)
    return (time.perf_counter() - began) / steps


def batches(recipe: Recipe, work: Work, device: torch.device) -> list[Batch]:
    """Some batches on the device: images of the embedded scenes; real captions where they are there and the method
    learns from no regions.
    """
    size, length = work.encoder.image_size, work.encoder.context_length
    settings = {} if recipe.regions is None else {"regions": recipe.regions}
    prepare = SamplePreprocessor(size, Squash(), recipe.sampling, Tokenizer(length), random_texts=True, **settings)
    samples = drawn_samples(BATCHES * work.images, recipe.regions is None)
    items = [prepare(sample, random.Random(number)) for number, sample in enumerate(samples)]
    data = GranularityData(image_size=size, num_workers=0)
    made = [collate(items[start : start + work.images]) for start in range(0, len(items), work.images)]
    return [data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0) for batch in made]


@cache
def drawn_samples(count: int, real_captions: bool) -> Sequence[Any]:
    """Samples of the embedded scenes, with real captions in place of theirs where these are there."""
    samples = [scenes.sample(number, "train") for number in range(count)]
    source, grains = captions(count) if real_captions else ("scenes", [])
    if source == "scenes":
        return samples
    return [
        replace(
            sample, caption=grain.caption, sentences=tuple(grain.sentences), regions=(),
            phrases=tuple(extract_phrases(grain.caption, grain.sentences)),
        )
        for sample, grain in zip(samples, list(grains) * len(samples), strict=False)
    ]  # fmt: skip


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bf16 where the hardware has it, as in training."""
    return torch.autocast(device.type, torch.bfloat16, enabled=best_precision(device.type) == "bf16-mixed")


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
