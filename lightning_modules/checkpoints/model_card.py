"""The model card of an export: what it is, what it learnt from, how well it does, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from eval import markdown
from lightning_modules.checkpoints.setting_changes import Change
from lightning_modules.networks import EncoderConfig, OpenClipConfig, SiglipSettings
from lightning_modules.networks.contract import config_of, shown_config

CLIP, SIGLIP = EncoderConfig.__name__, SiglipSettings.__name__  # families, by their settings
OPEN_CLIP = OpenClipConfig.__name__
BY_OPEN_CLIP = """import open_clip

model, preprocess = open_clip.create_model_from_pretrained("local-dir:" + FOLDER)
tokenizer = open_clip.get_tokenizer("local-dir:" + FOLDER)
model.eval()
image = model.encode_image(preprocess(picture)[None], normalize=True)
text = model.encode_text(tokenizer(texts), normalize=True)"""
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


def model_card(origin: Mapping[str, Any], format: str) -> str:
    """Markdown with the metadata that hubs read.

    Args:
        origin: what ``checkpoints.metadata`` put into the checkpoint; with ``history`` where the run has one.
        format: of the folder, ``transformers`` or ``open_clip``.
    """
    sizes, encoder, numbers = config_of(origin["encoder"]), shown_config(origin["encoder"]), origin["numbers"]
    family: str = encoder.get("family", CLIP)
    name, use = NAMES.get(family, family), USE.get((family, format))
    head = {
        "library_name": format,
        "pipeline_tag": "zero-shot-image-classification",
        "tags": [name.lower(), "grainclip", origin["method"]],
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {origin['method']}, {sizes.image_size} px, {sizes.context_length} tokens",
        f"Trained with GrainCLIP {origin['version']} (commit {origin['commit']}), {origin['steps']} steps. "
        f"Image and text embeddings are plain {name}'s; what the method added for training is not part of it. "
        "The text tower reads texts one by one, up to the given number of tokens.",
        *_interpolation(origin),
        *([] if use is None else [f"## Use\n\n```python\n{use}\n```"]),  # of a family from elsewhere nothing is known
        *([NOTES[family]] if format == "transformers" and family in NOTES else []),
        "## Numbers on the validation set\n\n" + (markdown(numbers) if numbers else "Not measured in this run."),
        f"## Data\n\n```json\n{json.dumps(origin['data'], indent=2, default=str)}\n```",
        *_changes(origin.get("history", [])),
        f"## Settings\n\n```json\n{json.dumps(origin['settings'] | {'encoder': encoder}, indent=2, default=str)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _interpolation(origin: Mapping[str, Any]) -> list[str]:
    share = origin.get("interpolation")
    if share is None:
        return []
    return [
        f"Its weights are {share:g} of the trained ones and {1 - share:g} of {origin['start']}'s, from which training "
        "started (WiSE-FT, arXiv 2109.01903). The numbers below are of the trained ones."
    ]


def _changes(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that were changed while the model was trained; those below are the last ones."""
    lines = [
        f"- at step {part['from']}: "
        + ", ".join(str(Change(name, *values)) for name, values in part["changed"].items())
        for part in history[1:]
    ]
    return ["## Changed during training\n\n" + "\n".join(lines)] if lines else []
