"""Models of timm by name, without their classifier, with weights of a file, of timm's own, or random ones."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg

from datamodules.spelling import did_you_mean
from lightning_modules.networks.config import TIMM
from lightning_modules.networks.weights.files import fetch, read_tensors
from lightning_modules.networks.weights.parameter_map import complain

PRETRAINED = "pretrained"
COUNTER = "num_batches_tracked"  # of batch norm, which some weights files leave out


def create(name: str, weights: str | None) -> Any:
    """A model of timm without its classifier.

    Args:
        name: ``timm/NAME``; NAME may have the tag of its weights, as in ``resnet50.a1_in1k``.
        weights: see ``EncoderConfig.image_weights``.

    Raises:
        ValueError: where timm has no such model or no weights for it, or the weights are of another model.
        FileNotFoundError: where there is no such file, or the hub cannot be reached.
    """
    model_name = name.removeprefix(TIMM)
    if not timm.is_model(model_name.split(".")[0]):
        near = did_you_mean(model_name, timm.list_models()).replace("mean ", f"mean {TIMM}")
        raise ValueError(f"image_tower {name}: timm {timm.__version__} has no such model{near}")
    try:
        settings = get_pretrained_cfg(model_name)
    except RuntimeError as error:
        tags = [tagged for tagged in timm.list_pretrained(f"{model_name.split('.')[0]}.*")]
        near = did_you_mean(model_name, tags).replace("mean ", f"mean {TIMM}")
        raise ValueError(f"image_tower {name}: timm has no such weights{near}") from error
    overlay = None
    if weights == PRETRAINED:
        if settings is None or not settings.hf_hub_id:
            raise ValueError(f"image_weights: timm has no weights of {model_name} on the hub; name a file, or null")
        overlay = {"file": str(fetch(str(settings.hf_hub_id)))}
    model: Any = timm.create_model(model_name, pretrained=overlay is not None, pretrained_cfg_overlay=overlay)
    with_classifier = set(model.state_dict())
    model.reset_classifier(0)
    if weights is not None and overlay is None:
        _fill(model, weights, with_classifier)
    return model


def _fill(model: Any, source: str, with_classifier: Collection[str]) -> None:
    """Load a weights file; the classifier's tensors are left out."""
    path: Path = fetch(source)
    state, wanted = read_tensors(path), model.state_dict()
    complain("lacks", {name for name in wanted if not name.endswith(COUNTER)} - state.keys(), f"image_weights {path}")
    complain("has unknown", state.keys() - set(with_classifier), f"image_weights {path}")
    state = {name: tensor for name, tensor in state.items() if name in wanted}
    others = [name for name, tensor in state.items() if tensor.shape != wanted[name].shape]
    complain("has of another shape", others, f"image_weights {path}")
    model.load_state_dict(wanted | state)
