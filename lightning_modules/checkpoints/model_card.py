"""The model card of an export: what it is, what it learnt from, how well it does, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from eval import markdown
from lightning_modules.checkpoints.setting_changes import Change
from lightning_modules.networks import EncoderConfig, OpenClipConfig, SiglipSettings
from lightning_modules.networks.contract import config_of, shown_config

CLIP, SIGLIP = EncoderConfig.__name__, SiglipSettings.__name__  # families, by their settings
OPEN_CLIP = OpenClipConfig.__name__
ONNX = "onnx"  # the format that every family shares
TRAINED = "trained"  # weights, those whose numbers the checkpoint holds
UNKNOWN = "unknown"  # a licence, as the hub calls it
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
BY_OPEN_CLIP = """import open_clip

model, preprocess = open_clip.create_model_from_pretrained("local-dir:" + FOLDER)
tokenizer = open_clip.get_tokenizer("local-dir:" + FOLDER)
model.eval()
image = model.encode_image(preprocess(picture)[None], normalize=True)
text = model.encode_text(tokenizer(texts), normalize=True)"""
BY_ONNX = """import json

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

with open(f"{FOLDER}/preprocess.json") as file:
    how = json.load(file)
side, interpolation = how["image_size"], Image.Resampling[how["interpolation"].upper()]
tokenizer = Tokenizer.from_file(f"{FOLDER}/tokenizer.json")
image_tower, text_tower = (onnxruntime.InferenceSession(f"{FOLDER}/{name}.onnx") for name in ("image", "text"))


def pixels(image):  # upright, RGB
    short = min(image.size)
    width, height = (side, side) if how["resize"] == "squash" else (side * length // short for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    square = image.resize((width, height), interpolation).crop((left, top, left + side, top + side))
    return ((np.asarray(square) / 255 - how["mean"]) / how["std"]).transpose(2, 0, 1).astype(np.float32)


image = image_tower.run(None, {"pixels": np.stack([pixels(image) for image in images])})[0]  # [images, D], unit norm
rows = np.array([encoding.ids for encoding in tokenizer.encode_batch(texts)], dtype=np.int64)
text = text_tower.run(None, {"tokens": rows})[0]  # [texts, D], unit norm"""
USE = {
    (CLIP, "transformers"): """from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from transformers import CLIPModel, CLIPProcessor

model, processor = CLIPModel.from_pretrained(FOLDER), CLIPProcessor.from_pretrained(FOLDER)
side = processor.image_processor.crop_size["height"]
square = Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side)])  # without it: see below
images = [square(image) for image in images]  # upright, RGB
inputs = processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
outputs = model(**inputs)  # image_embeds and text_embeds have unit norm""",
    (CLIP, "open_clip"): BY_OPEN_CLIP,
    (OPEN_CLIP, "open_clip"): BY_OPEN_CLIP,
    (SIGLIP, "transformers"): """from transformers import SiglipModel, SiglipProcessor

model, processor = SiglipModel.from_pretrained(FOLDER), SiglipProcessor.from_pretrained(FOLDER)
inputs = processor(  # upright RGB images; the padding is part of what the model reads
    text=texts, images=images, padding="max_length", truncation=True, return_tensors="pt"
)
outputs = model(**inputs)  # image_embeds and text_embeds have unit norm
probabilities = outputs.logits_per_image.sigmoid()""",
}

NOTES = {  # on the use with transformers
    CLIP: "`square` is OpenAI CLIP's crop. The processor's own rounds another way where the resized image's longer "
    "side exceeds the square by 3, 7, 11, ... pixels (a quarter of COCO's images): there it is one pixel further left "
    "or up, and the embedding slightly another.",
    SIGLIP: "Texts are in lower case: the processor's tokenizer sees to it. The processor resizes the whole image to a "
    "square, whatever its aspect ratio; `lightning evaluate --fit squash` (bicubic) or `squash_bilinear` does the "
    "same, as `resample` in its settings says (3 or 2).",
}
NAMES = {CLIP: "CLIP", SIGLIP: "SigLIP", OPEN_CLIP: "OpenCLIP"}


def model_card(
    origin: Mapping[str, Any],
    format: str,
    licence: str = UNKNOWN,
    title: str = "model",
    agreement: tuple[float, float] | None = None,
) -> str:
    """Markdown with the metadata that hubs read.

    Args:
        origin: what ``checkpoints.metadata`` put into the checkpoint; with ``history`` where the run has one, with
            ``weights`` (``trained`` or ``averaged``), and ``interpolation`` where they are between start and these.
        format: of the folder, ``transformers``, ``open_clip`` or ``onnx``.
        licence: of the model, by the hub's name for it.
        title: of the model among the hub's results.
        agreement: of ONNX files the largest differences from torch, of images and of texts.
    """
    sizes, encoder, numbers = config_of(origin["encoder"]), shown_config(origin["encoder"]), origin["numbers"]
    family: str = encoder.get("family", CLIP)
    name, use = NAMES.get(family, family), BY_ONNX if format == ONNX else USE.get((family, format))
    parts = [
        f"---\n{yaml.safe_dump(_metadata(origin, format, licence, title, name), sort_keys=False)}---",
        f"# {origin['method']}, {sizes.image_size} px, {sizes.context_length} tokens",
        f"Trained with GrainCLIP {origin['version']} (commit {origin['commit']}), {origin['steps']} steps. "
        f"Image and text embeddings are plain {name}'s; what the method added for training is not part of it. "
        "The text tower reads texts one by one, up to the given number of tokens.",
        *_other_weights(origin),
        *([] if use is None else [f"## Use\n\n```python\n{use}\n```"]),  # of a family from elsewhere nothing is known
        *([NOTES[family]] if format == "transformers" and family in NOTES else []),
        *([] if agreement is None else [_agreement(*agreement)]),
        _limits(origin, licence, sizes.context_length),
        "## Numbers on the validation set\n\n"
        + (_measured_at(origin) + markdown(numbers) if numbers else "Not measured in this run."),
        f"## Data\n\n```json\n{json.dumps(origin['data'], indent=2, default=str)}\n```",
        *_changes(origin.get("history", [])),
        f"## Settings\n\n```json\n{json.dumps(origin['settings'] | {'encoder': encoder}, indent=2, default=str)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(origin: Mapping[str, Any], format: str, licence: str, title: str, family: str) -> dict[str, Any]:
    """The front matter: the hub's own fields; results as its model-index, where they are of these weights."""
    head: dict[str, Any] = {
        "license": licence,
        "library_name": format,
        "pipeline_tag": "zero-shot-image-classification",
        "tags": [family.lower(), "grainclip", origin["method"]],
    }
    start = origin.get("start")
    if start is not None and HUB_ID.fullmatch(start) and not Path(start).exists():
        head |= {"base_model": start, "base_model_relation": "finetune"}
    numbers = origin["numbers"]
    if numbers and _are_trained(origin) and not _measured_at(origin):
        metrics = [{"type": key.rpartition("/")[2], "name": key, "value": value} for key, value in numbers.items()]
        data = {"name": "the run's validation set", "type": "validation"}
        task = {"type": "zero-shot-image-classification", "name": "retrieval and its like, see each metric's name"}
        head["model-index"] = [{"name": title, "results": [{"task": task, "dataset": data, "metrics": metrics}]}]
    return head


def _measured_at(origin: Mapping[str, Any]) -> str:
    """The step at which the numbers were measured, where the weights are of another; "" where nothing tells it."""
    step = origin.get("numbers_step")
    if step in (None, origin["steps"]):
        return ""
    return f"Measured at step {step}; the weights are those of step {origin['steps']}.\n\n"


def _agreement(image: float, text: float) -> str:
    return (
        "onnxruntime's embeddings of these files differ from torch's by at most "
        f"{image:.1g} (images) and {text:.1g} (texts) in any number, on noise and a few texts, measured at export. "
        "Texts are not mended first (broken Unicode, HTML escapes), as training and evaluation do."
    )


def _limits(origin: Mapping[str, Any], licence: str, tokens: int) -> str:
    start = origin.get("start")
    terms = "is not stated" if licence == UNKNOWN else f"is {licence}"
    base = "" if start is None else f" Training started from {start}, whose licence and limits hold too."
    return (
        "## Intended use and limits\n\n"
        "For research on retrieval and zero-shot classification, and to train further. It is not meant to identify "
        "people or to decide about them. It learnt from the data named below, with what they leave out and get wrong; "
        f"beyond them, and in other languages than theirs, nothing is known of it. Texts over {tokens} tokens are cut. "
        f"The model's licence {terms}; the data have their own.{base}"
    )


def _are_trained(origin: Mapping[str, Any]) -> bool:
    """True if the exported weights are the checkpoint's trained ones."""
    return origin.get("interpolation") is None and origin.get("weights", TRAINED) == TRAINED


def _other_weights(origin: Mapping[str, Any]) -> list[str]:
    """A sentence on the exported weights, where they are not the trained ones."""
    if _are_trained(origin):
        return []
    share, trained = origin.get("interpolation"), origin.get("weights", TRAINED) == TRAINED
    whole = "the trained ones" if trained else "the running average of the trained ones"
    words = f"Its weights are {whole}."
    if share is not None:
        words = (
            f"Its weights are {share:g} of {whole} and {1 - share:g} of {origin['start']}'s, from which training "
            "started (WiSE-FT, arXiv 2109.01903)."
        )
    return [f"{words} The numbers below are of the trained ones."]


def _changes(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that were changed while the model was trained; those below are the last ones."""
    lines = [
        f"- at step {part['from']}: "
        + ", ".join(str(Change(name, *values)) for name, values in part["changed"].items())
        for part in history[1:]
    ]
    return ["## Changed during training\n\n" + "\n".join(lines)] if lines else []
