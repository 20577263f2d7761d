"""``lightning evaluate``: published benchmarks on official files, for a run's checkpoint or any CLIP.

A benchmark is a function in a file of ``eval`` and a line in ``BENCHMARKS``; the command calls it by the function's
name.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor

from datamodules.collate import pack_texts
from datamodules.module import normalise
from datamodules.tokenizer import Tokenizer
from eval.benchmark import Benchmark, Run, T
from eval.coco_boxes import coco_boxes, lvis_boxes
from eval.panoptic_boxes import coco_panoptic_boxes
from eval.report import table, write_json
from lightning_modules.complaints import fail
from lightning_modules.export_cli import encoder_of, read
from lightning_modules.networks import DualEncoder, ImageFeatures, pool_regions
from lightning_modules.provenance import KEY, commit

BENCHMARKS: tuple[Benchmark, ...] = (
    coco_boxes,
    lvis_boxes,
    coco_panoptic_boxes,
)
logger = logging.getLogger("grainclip")


class EncoderModel:
    """A dual encoder as benchmarks see one: pixels from 0 to 255 and strings in, on its device, without gradients."""

    def __init__(self, encoder: DualEncoder, device: torch.device) -> None:
        self.encoder, self.device = encoder.eval().to(device), device
        self.image_size = encoder.config.image_size
        self._tokenizer = Tokenizer(encoder.config.context_length)

    @torch.no_grad()
    def encode_image(self, squares: UInt8[Tensor, "B 3 S S"]) -> ImageFeatures:
        """Features of the pictures."""
        return self.encoder.encode_image(normalise(squares.to(self.device)))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit vectors of the texts; a text beyond the context is cut and keeps its EOT."""
        unique, index = pack_texts(texts, self._tokenizer)
        moved = type(unique)(*(part.to(self.device) for part in unique))
        return self.encoder.encode_text(moved).text[index.to(self.device)]

    @torch.no_grad()
    def pool_regions(
        self, dense: Float[Tensor, "B P D"], boxes: Float[Tensor, "R 4"], image: Int[Tensor, " R"]
    ) -> Float[Tensor, "R D"]:
        """Unit vectors of the boxes."""
        return pool_regions(dense, boxes, image)


def load(source: str) -> tuple[DualEncoder, dict[str, Any]]:
    """The encoder of a ``.ckpt`` file of a run (whatever its method), else of a folder, a weights file or a hub id; and
    plain words about it.

    Raises:
        ValueError: where the weights are damaged or of another architecture.
        FileNotFoundError: where there are none.
    """
    if Path(source).suffix != ".ckpt":
        encoder = DualEncoder.from_pretrained(source)
        return encoder, {"source": source, "encoder": asdict(encoder.config)}
    saved = read(Path(source))
    origin = saved[KEY]
    words = {name: origin[name] for name in ("method", "steps", "commit", "encoder")}
    return encoder_of(saved), {"source": source, **words}


def evaluate(
    source: str, benchmarks: Sequence[Benchmark], run: Run, device: torch.device, out: Path | None = None
) -> dict[str, float]:
    """Run the benchmarks one after the other; ``out`` is written anew after each, so that none is lost.

    Returns:
        All numbers, by names that begin with the benchmark's.

    Raises:
        ValueError, FileNotFoundError: the model, a file or a picture is at fault; the message says which.
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out must lie in a folder that exists, got {out}")
    encoder, words = load(source)
    model = EncoderModel(encoder, device)
    settings: dict[str, Any] = {"model": words, "version": version("grainclip"), "commit": commit(), "benchmarks": {}}
    numbers: dict[str, float] = {}
    for benchmark in benchmarks:
        name = benchmark.__name__
        result = benchmark(model, run)
        for reason, count in sorted(result.counts.items()):
            logger.warning("%s: %d × %s", name, count, reason)
        numbers |= result.numbers
        settings["benchmarks"][name] = result.settings
        if out is not None:
            write_json(out, numbers, settings)
    return numbers


def run(arguments: Sequence[str]) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    names = [benchmark.__name__ for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="lightning evaluate", description=__doc__)
    parser.add_argument("--model", required=True, help=".ckpt file of a run, or folder, weights file, hub id of a CLIP")
    parser.add_argument("--benchmark", required=True, help=f"one or several, parted by commas: {', '.join(names)}")
    parser.add_argument("--root", required=True, type=Path, help="folder of annotations/ and the pictures' folders")
    parser.add_argument("--out", type=Path, help="JSON file for numbers, settings and checksums")
    parser.add_argument("--batch_size", type=int, default=32, help="pictures encoded at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--skip_missing", action="store_true", help="leave out, and count, pictures that are missing")
    given = parser.parse_args(arguments)
    try:
        wanted = [_benchmark(name) for name in given.benchmark.split(",")]
        settings = Run(given.root, given.batch_size, given.skip_missing, _bar)
        numbers = evaluate(given.model, wanted, settings, _device(given.device), given.out)
    except (ValueError, OSError) as error:
        fail(str(error))
    Console().print(table(numbers, title=given.model))
    return 0


def _benchmark(name: str) -> Benchmark:
    for benchmark in BENCHMARKS:
        if benchmark.__name__ == name:
            return benchmark
    raise ValueError(f"--benchmark must be of {', '.join(b.__name__ for b in BENCHMARKS)}, got {name!r}")


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device must be a device that is here, got {name!r}: {error}") from error


def _bar(steps: Sequence[T], description: str) -> Iterable[T]:
    """rich's progress bar, where a person is watching."""
    return track(steps, description, console=Console(stderr=True), disable=not sys.stderr.isatty())
