"""Models by open_clip's own names: ``open_clip:NAME/TAG``, an architecture of its list, and weights of it.

The library downloads the weights. A folder in the cache links to them, with the config file beside: open_clip's
``local-dir``, which the other readers here know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.atomic_write import draft_name
from datamodules.scenes.shards import default_cache
from datamodules.spelling import did_you_mean
from lightning_modules.networks.weights.hub import OPEN_CLIP, OPEN_CLIP_CONFIG
from lightning_modules.networks.weights.open_clip_config import write_config

PREFIX = "open_clip:"
PIXELS = ("mean", "std", "interpolation", "resize_mode")  # of a tag's settings, those of its images


def from_name(source: str) -> Path:
    """The weights file of ``open_clip:NAME/TAG``, its config file beside it.

    Raises:
        ValueError: where open_clip knows no such name, or no such weights of it.
        FileNotFoundError: where the weights cannot be downloaded.
    """
    import open_clip

    name, _, tag = source.removeprefix(PREFIX).rpartition("/")
    name = (name or tag).replace("/", "-")
    names = open_clip.list_models()
    if name not in names:
        hint = did_you_mean(name, names) or f"; it knows {len(names)}, ViT-B-16-SigLIP among them"
        raise ValueError(f"{source}: open_clip {open_clip.__version__} knows no model {name}{hint}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        known = ", ".join(tags) or "none"
        raise ValueError(f"{source}: must name weights of {name} behind a /: {known}{did_you_mean(tag, tags)}")
    settings = open_clip.get_pretrained_cfg(name, tag)
    try:
        weights = Path(open_clip.download_pretrained(settings))
    except Exception as error:  # of the hub's client, or of whichever HTTP library
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
        raise FileNotFoundError(f"{source}: the weights cannot be downloaded ({reason})") from error
    model: Any = open_clip.get_model_config(name)
    return linked(default_cache() / "open_clip" / f"{name}--{tag}", weights, model, settings)


def linked(folder: Path, weights: Path, model: dict[str, Any], settings: dict[str, Any]) -> Path:
    """A link to a weights file in ``folder``, with the config file beside it.

    Args:
        folder: made where it is missing.
        weights: the downloaded file.
        model: the architecture's ``model_cfg``.
        settings: of the tag. Where it was trained with QuickGELU the model has it, whatever its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    quick_gelu = {"quick_gelu": True} if settings.get("quick_gelu") else {}
    pixels = {key: settings[key] for key in PIXELS if settings.get(key) is not None}
    write_config(folder / OPEN_CLIP_CONFIG, model | quick_gelu, pixels)
    link = folder / (OPEN_CLIP[0] if weights.suffix == ".safetensors" else OPEN_CLIP[1])
    draft = folder / draft_name(link.name)  # ranks make the same link at the same time
    draft.unlink(missing_ok=True)
    draft.symlink_to(weights.resolve())
    draft.replace(link)
    return link
