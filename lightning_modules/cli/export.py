"""``lightning export CHECKPOINT FOLDER``: a trained model as a folder that transformers or open_clip load; or a sharded
checkpoint as one file, to go on from without FSDP2.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from lightning_modules.checkpoints.atomic_save import AtomicCheckpointIO
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.checkpoints.model_card import model_card
from lightning_modules.checkpoints.sharded import put_together
from lightning_modules.cli.interpolation import line_of
from lightning_modules.cli.output_paths import make_folder
from lightning_modules.cli.read_checkpoint import encoder_of, read
from lightning_modules.errors import fail
from lightning_modules.methods.known_methods import know_all_methods
from lightning_modules.runs.checkpoint import RUN


def export(
    checkpoint: Path,
    folder: Path,
    format: str | None = None,
    weights: str = "trained",
    dtype: torch.dtype = torch.float32,
    interpolate: float | None = None,
    start: str | None = None,
) -> None:
    """Write weights, configuration, processor files and a model card.

    Args:
        checkpoint: ``.ckpt`` file or folder of a run.
        folder: written into; it must not hold other files.
        format: ``transformers`` or ``open_clip``; None: the first of the formats of the encoder's family.
        weights: the ``trained`` ones, or their running average (``averaged``).
        dtype: of the weights in the file.
        interpolate: share of these weights; the rest is of those that the run started from. None: all.
        start: source of the weights to start from; None: the run's ``pretrained``.

    Raises:
        ValueError: where the checkpoint is damaged or of another program, or holds no average, its start cannot be
            loaded, or the folder is not empty or cannot be written to.
        FileNotFoundError: where there is no such checkpoint.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder, or empty it")
    saved = read(checkpoint)
    origin: dict[str, Any] = saved[KEY] | {"history": saved.get(RUN, {}).get("history", [])}
    if interpolate is None:
        encoder = encoder_of(saved, weights)
    else:
        line = line_of(checkpoint, saved, start, weights)
        encoder, origin = line.at(interpolate), origin | {"interpolation": interpolate, "start": line.words["start"]}
    format = encoder.formats[0] if format is None else format
    encoder.check_format(format)
    make_folder(folder, "FOLDER")
    encoder.save(folder, format, dtype)
    (folder / "README.md").write_text(model_card(origin, format), encoding="utf-8")


def run(args: Namespace) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    try:
        if args.start is not None and args.interpolate is None:
            raise ValueError(f"--start goes with --interpolate, got {args.start} alone")
        if args.format == "checkpoint":
            if args.interpolate is not None:
                raise ValueError("--interpolate makes a model: --format must be transformers or open_clip")
            return _whole(args.checkpoint, args.folder)
        dtype = getattr(torch, args.dtype)
        export(args.checkpoint, args.folder, args.format, args.weights, dtype, args.interpolate, args.start)
    except (ValueError, OSError) as error:
        fail(str(error))
    sys.stdout.write(f"{args.folder}: {', '.join(sorted(p.name for p in args.folder.iterdir()))}\n")
    return 0


def _whole(checkpoint: Path, file: Path) -> int:
    """Make one file of a sharded checkpoint's folder."""
    if not checkpoint.is_dir():
        raise ValueError(f"--format checkpoint makes one file of a sharded checkpoint's folder, got {checkpoint}")
    if file.exists():
        raise ValueError(f"{file} is there already: choose another name")
    know_all_methods()
    AtomicCheckpointIO().save_checkpoint(put_together(checkpoint), file)
    sys.stdout.write(f"{file}: weights and optimiser of {checkpoint}\n")
    return 0
