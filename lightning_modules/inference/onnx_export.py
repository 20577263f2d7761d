"""An encoder as two ONNX files, image and text tower, with tokenizer and preprocessing: to embed without torch.

    FOLDER/image.onnx        pixels [B, 3, S, S], float32, normalised -> image [B, D], unit norm
    FOLDER/text.onnx         tokens [B, L], int64 -> text [B, D], unit norm
    FOLDER/tokenizer.json    of the tokenizers library: texts to rows of tokens, cut and filled
    FOLDER/preprocess.json   image_size, mean, std, resize, interpolation

The batch is of any size; L is the family's row, or for CLIP any length up to the context. Both files are run by
onnxruntime before anything is written to the folder, on noise and on texts that the tokenizer's file turns into rows,
beside torch: all embeddings must agree to ``TOLERANCE``.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim

from lightning_modules.networks import Encoder
from lightning_modules.networks.row_tokenizer import rows_of
from lightning_modules.networks.text_encoding import encode_strings

TOLERANCE = 1e-4  # of any number of an embedding, which has unit norm
LARGEST = 2**31 - 2**20  # bytes of an ONNX file's weights
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
RESIZING = ("shortest", "squash")
OPSET = 18
TEXTS = (
    "a",
    "A photo of two cats, on a mat.",
    "It's 3 o'clock:  the CAFÉ's red door is open; its sign says \"Ouvert\" (open)!",
    "A large brown dog lies beside a small wooden boat under a grey sky. " * 30,
)


class OnnxCheck(NamedTuple):
    """The largest difference between onnxruntime's embeddings and torch's."""

    image: float
    text: float


class _ImageTower(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self.encoder.encode_image(pixels, dense=False).image


class _TextTower(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        return self.encoder.encode_rows(tokens)


def check_onnx(encoder: Encoder) -> None:
    """Raise ValueError where a library is missing, or a part of the encoder cannot be written."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"--format onnx needs {name}: pip install 'grainclip[onnx]'") from error
    encoder.row_tokenizer()
    if encoder.resizing[0] not in RESIZING:
        raise ValueError(f"--format onnx knows images resized by {' or '.join(RESIZING)}, got {encoder.resizing[0]}")
    for name in ("image_tower", "text_tower"):
        size = sum(p.numel() * p.element_size() for p in getattr(encoder, name).parameters())
        if size > LARGEST:
            raise ValueError(f"an ONNX file holds at most 2 GiB of weights, and the {name} has {size / 2**30:.1f} GiB")


def save_onnx(encoder: Encoder, folder: Path) -> OnnxCheck:
    """Write the four files into ``folder``, after ``check_onnx``.

    Raises:
        ValueError: where a tower cannot be converted, or onnxruntime's embeddings are not torch's.
    """
    encoder = encoder.float().cpu().eval()
    resize, interpolation = encoder.resizing
    preprocess = {
        "image_size": encoder.image_size,
        "mean": list(encoder.image_mean),
        "std": list(encoder.image_std),
        "resize": resize,
        "interpolation": interpolation,
    }
    with tempfile.TemporaryDirectory() as place:
        draft = Path(place)
        (draft / "tokenizer.json").write_text(encoder.row_tokenizer(), encoding="utf-8")
        (draft / "preprocess.json").write_text(json.dumps(preprocess, indent=2) + "\n", encoding="utf-8")
        side, length = encoder.image_size, encoder.row_length
        batch: dict[int, Any] = {0: Dim("batch")}
        pixels = torch.zeros(2, 3, side, side)
        _convert(_ImageTower(encoder), pixels, draft / "image.onnx", ("pixels", "image"), batch)
        rows = torch.tensor(rows_of(encoder.row_tokenizer(), TEXTS[1:3]))
        free = batch if length is not None else batch | {1: Dim("length", min=2, max=encoder.context_length)}
        _convert(_TextTower(encoder), rows, draft / "text.onnx", ("tokens", "text"), free)
        try:
            difference = compare(encoder, draft)
        except Exception as error:  # of onnxruntime: a batch of another size than the example's, say
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:110]
            raise ValueError(f"onnxruntime cannot run what torch converted: {reason}") from error
        for tower, value in difference._asdict().items():
            if not value <= TOLERANCE:
                raise ValueError(
                    f"{tower}.onnx must agree with torch to {TOLERANCE:g}, got a difference of {value:.2g}"
                )
        for file in sorted(draft.iterdir()):
            shutil.copyfile(file, folder / file.name)
    return difference


def _convert(tower: nn.Module, example: Tensor, file: Path, names: tuple[str, str], free: dict[int, Any]) -> None:
    """Write a tower as an ONNX file. Raises ValueError where torch cannot follow it."""
    given, made = names
    try:
        with _quiet():
            torch.onnx.export(
                tower,
                (example,),
                str(file),
                input_names=[given],
                output_names=[made],
                dynamic_shapes=(free,),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # of torch.export and onnxscript: whatever an operation is at fault with
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:90]
        raise ValueError(f"the {made} tower cannot be written as ONNX: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress and the warnings of the conversion: its result is checked."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def compare(encoder: Encoder, folder: Path) -> OnnxCheck:
    """Run the files of ``folder`` beside the encoder, on several sizes of batches."""
    json_text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    run_image, run_text = (_session(folder / f"{name}.onnx") for name in ("image", "text"))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, encoder.image_size, encoder.image_size, generator=generator)
    with torch.no_grad():
        image, text = encoder.encode_image(pixels).image, encode_strings(encoder, TEXTS, torch.device("cpu"))
    images, texts = [], []
    for part in (slice(0, 1), slice(0, 3)):
        images.append(run_image(pixels[part].numpy()) - image[part].numpy())
    for part in (slice(0, 1), slice(1, 3), slice(0, 4)):
        texts.append(run_text(np.array(rows_of(json_text, TEXTS[part]), dtype=np.int64)) - text[part].numpy())
    return OnnxCheck(*(max(float(np.abs(difference).max()) for difference in part) for part in (images, texts)))


def _session(file: Path) -> Any:
    """A function that runs an ONNX file with one input and one output on the CPU."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})[0]
