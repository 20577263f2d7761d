"""``open_clip_config.json``: a plain CLIP, which `DualEncoder` reads itself, or a model that open_clip builds.

A model with a tokenizer or a text tower of transformers' needs files beside its weights. They are kept as one string,
so that a checkpoint of a run holds all that the model is made of.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datamodules.atomic_write import write_text
from datamodules.batching.image_transforms import CLIP_MEAN, CLIP_STD, Channels
from lightning_modules.networks.weights.hub import OPEN_CLIP_CONFIG, TOKENIZER_FILES, folder_from_hub

SECTIONS = ("vision_cfg", "text_cfg")
# What `weights.openai_clip` reads, and the only values of other keys that leave the model as it is without them.
PLAIN = {
    "": ("embed_dim", "quick_gelu", *SECTIONS),
    "vision_cfg": ("image_size", "layers", "width", "head_width", "patch_size"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers"),
}
DEFAULTS = {"mlp_ratio": 4.0, "pool_type": ("tok", "argmax"), "pos_embed_type": "learnable", "proj_type": "linear"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the date of all packed files: equal files make equal strings


def read_config(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``model_cfg`` and ``preprocess_cfg`` of a config file.

    Raises:
        ValueError: where it is truncated, or lacks the model's settings.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is truncated or no JSON: {error}") from error
    model = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(model.get(name), dict) for name in SECTIONS):
        raise ValueError(f"{file} must hold a model_cfg with vision_cfg and text_cfg, as open_clip writes it")
    return model, content.get("preprocess_cfg") or {}


def config_beside(weights: Path) -> Path:
    """The config file that belongs to a weights file; it may be missing."""
    return weights.with_name(OPEN_CLIP_CONFIG)


def is_plain_clip(model: Mapping[str, Any], preprocess: Mapping[str, Any]) -> bool:
    """True if the settings are of CLIP's vision transformer and causal text transformer with CLIP's tokenizer and
    pixels, and no others.
    """
    vision, text = model["vision_cfg"], model["text_cfg"]
    for section, settings in (("", model), ("vision_cfg", vision), ("text_cfg", text)):
        for name, value in settings.items():
            if name not in PLAIN[section] and value and value not in _default(name):
                return False
    sizes = [vision.get("image_size", 224), vision.get("layers", 12), vision.get("patch_size", 16)]
    if not all(isinstance(size, int) for size in sizes) or sizes[0] % sizes[2]:
        return False
    if preprocess.get("interpolation") not in (None, "bicubic"):
        return False
    pixels = channels(preprocess, "mean"), channels(preprocess, "std")
    return all(abs(a - b) < 1e-6 for a, b in zip(sum(pixels, ()), (*CLIP_MEAN, *CLIP_STD), strict=True))


def channels(preprocess: Mapping[str, Any], name: str) -> Channels:
    """``mean`` or ``std`` of the pixels; CLIP's where the settings name none.

    Raises:
        ValueError: as ``three_numbers``.
    """
    return three_numbers(preprocess.get(name) or {"mean": CLIP_MEAN, "std": CLIP_STD}[name], f"preprocess_cfg.{name}")


def three_numbers(values: Any, source: str) -> Channels:
    """A number for each of red, green and blue. Raises ValueError, which names the ``source``, for anything else."""
    numbers = isinstance(values, (list, tuple)) and all(isinstance(value, (int, float)) for value in values)
    if not numbers or len(values) != 3:
        raise ValueError(f"{source} must be three numbers, got {values!r}")
    return float(values[0]), float(values[1]), float(values[2])


def _default(name: str) -> tuple[Any, ...]:
    default = DEFAULTS.get(name, ())
    return default if isinstance(default, tuple) else (default,)


def tokenizer_files(folder: Path, name: str) -> str:
    """The files of a tokenizer of transformers', packed: those beside the weights, else those of the hub id ``name``.

    Raises:
        ValueError: where neither the folder nor the hub, nor its cache, has it.
    """
    beside = [folder / file for file in TOKENIZER_FILES if (folder / file).is_file()]
    try:
        place = folder if beside else folder_from_hub(name, TOKENIZER_FILES)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no tokenizer, and so does its text_cfg.hf_tokenizer_name: {error}") from error
    return pack(place / file for file in TOKENIZER_FILES if (place / file).is_file())


def text_model_config(name: str) -> dict[str, Any]:
    """The ``config.json`` of a text tower of transformers', from a folder or the hub.

    Raises:
        ValueError: where it cannot be read.
    """
    try:
        file = (Path(name) if Path(name).is_dir() else folder_from_hub(name, ["config.json"])) / "config.json"
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"text_cfg.hf_model_name has no config.json that reads: {error}") from error


def pack(files: Iterable[Path]) -> str:
    """Files as one string, the same for the same names and contents; "" where there are none."""
    paths, archive = sorted(files), io.BytesIO()
    if not paths:
        return ""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in paths:
            packed.writestr(zipfile.ZipInfo(path.name, EPOCH), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return base64.b64encode(archive.getvalue()).decode("ascii")


def unpack(files: str, folder: Path) -> None:
    """Write the files of ``pack`` into a folder."""
    if files:
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(files))) as packed:
            packed.extractall(folder)


def write_config(file: Path, model: Mapping[str, Any], preprocess: Mapping[str, Any]) -> None:
    """Write the config file that open_clip reads."""
    write_text(file, json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}, indent=2) + "\n")
