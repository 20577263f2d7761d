"""``lightning export CHECKPOINT FOLDER``: a trained model as a folder that transformers, open_clip or onnxruntime load,
on the hub too; or a sharded checkpoint as one file, to go on from without FSDP2.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from lightning_modules.checkpoints.atomic_save import AtomicCheckpointIO
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.checkpoints.model_card import ONNX, UNKNOWN, model_card
from lightning_modules.checkpoints.sharded import put_together
from lightning_modules.cli.interpolation import line_of
from lightning_modules.cli.output_paths import make_folder
from lightning_modules.cli.push import check_name, check_push, push
from lightning_modules.cli.read_checkpoint import encoder_of, read
from lightning_modules.errors import fail
from lightning_modules.inference.onnx_export import OnnxCheck, check_onnx, save_onnx
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
    licence: str = UNKNOWN,
    name: str | None = None,
) -> OnnxCheck | None:
    """Write weights, configuration, processor files and a model card.

    Args:
        checkpoint: ``.ckpt`` file or folder of a run.
        folder: written into; it must not hold other files.
        format: ``transformers``, ``open_clip`` or ``onnx``; None: the first of the formats of the encoder's family.
        weights: the ``trained`` ones, or their running average (``averaged``).
        dtype: of the weights in the file.
        interpolate: share of these weights; the rest is of those that the run started from. None: all.
        start: source of the weights to start from; None: the run's ``pretrained``.
        licence: of the model, by the hub's name for it, for the card.
        name: of the model, for the card; None: the folder's.

    Returns:
        How far onnxruntime's embeddings are from torch's; None for other formats.

    Raises:
        ValueError: where the checkpoint is damaged or of another program, or holds no average, its start cannot be
            loaded, the folder is not empty or cannot be written to, or the format cannot hold the model.
        FileNotFoundError: where there is no such checkpoint.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder, or empty it")
    saved = read(checkpoint)
    origin: dict[str, Any] = saved[KEY] | {"history": saved.get(RUN, {}).get("history", []), "weights": weights}
    if interpolate is None:
        encoder = encoder_of(saved, weights)
    else:
        line = line_of(checkpoint, saved, start, weights)
        encoder, origin = line.at(interpolate), origin | {"interpolation": interpolate, "start": line.words["start"]}
    format = encoder.formats[0] if format is None else format
    checked = None
    if format == ONNX:
        if dtype != torch.float32:
            raise ValueError(f"--format onnx writes float32 weights, got --dtype {str(dtype).removeprefix('torch.')}")
        check_onnx(encoder)
        make_folder(folder, "FOLDER")
        checked = save_onnx(encoder, folder)
    else:
        encoder.check_format(format)
        make_folder(folder, "FOLDER")
        encoder.save(folder, format, dtype)
    agreement = None if checked is None else (checked.image, checked.text)
    card = model_card(origin, format, licence, name or folder.name, agreement)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return checked


def run(args: Namespace) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    try:
        if args.start is not None and args.interpolate is None:
            raise ValueError(f"--start goes with --interpolate, got {args.start} alone")
        if args.push is None and (args.dry_run or args.public):
            raise ValueError(f"--{'dry_run' if args.dry_run else 'public'} goes with --push OWNER/NAME")
        if args.format == "checkpoint":
            if args.interpolate is not None:
                raise ValueError("--interpolate makes a model: --format must be transformers, open_clip or onnx")
            if args.push is not None:
                raise ValueError("--push uploads a model: --format must be transformers, open_clip or onnx")
            return _whole(args.checkpoint, args.folder)
        if args.dry_run:
            return _rehearse(args)
        if args.push is not None:
            check_push(args.push)
        checked = _export(args, args.folder)
        sys.stdout.write(f"{args.folder}: {', '.join(sorted(p.name for p in args.folder.iterdir()))}\n")
        if checked is not None:
            told = f"image {checked.image:.1g}, text {checked.text:.1g}"
            sys.stdout.write(f"largest difference of onnxruntime's embeddings from torch's: {told}\n")
        if args.push is not None:
            sys.stdout.write(f"pushed to {push(args.folder, args.push, args.public)}\n")
    except (ValueError, OSError) as error:
        fail(str(error))
    return 0


def _export(args: Namespace, folder: Path) -> OnnxCheck | None:
    dtype, name = getattr(torch, args.dtype), (args.push or "").rpartition("/")[2] or args.folder.name
    given = (args.format, args.weights, dtype, args.interpolate, args.start, args.license, name)
    return export(args.checkpoint, folder, *given)


def _rehearse(args: Namespace) -> int:
    """List what ``--push`` would upload, and show the card; nothing is left on this machine or sent."""
    check_name(args.push)
    with tempfile.TemporaryDirectory() as place:
        _export(args, Path(place))
        for file in sorted(Path(place).iterdir()):
            sys.stdout.write(f"{file.stat().st_size:>14,} bytes  {file.name}\n")
        sys.stdout.write(f"would be pushed to {args.push}, {'public' if args.public else 'private'}; README.md:\n\n")
        sys.stdout.write((Path(place) / "README.md").read_text(encoding="utf-8"))
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
