"""Weights between two models of one shape (WiSE-FT, arXiv 2109.01903: what fine-tuning gains, without what it forgets;
also a teacher's share, as in CLIPSelf), and the running average that a checkpoint may hold beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from torch import Tensor

from lightning_modules.networks import DualEncoder, Encoder, build_encoder
from lightning_modules.networks.adapters import plain_state
from lightning_modules.networks.encoder import load_state, whole_state


def average(trained: Mapping[str, Tensor], start: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """``share`` of the trained weights and the rest of the start's, name by name; other tensors than floating-point
    ones are the trained model's. At 0 and 1 the weights of either, bit for bit.
    """
    return {
        name: before.lerp(after.to(before), share) if (before := start[name]).is_floating_point() else after
        for name, after in trained.items()
    }


def interpolated(trained: Encoder, start: Encoder, share: float) -> Encoder:
    """An encoder like ``trained``, on its device, with ``share`` of its weights and the rest of the start's; adapters
    are merged before.

    Raises:
        ValueError: where both are of different families or sizes.
    """
    after, before = _state(trained), _state(start)
    differing = [n for n in (*after, *before) if n not in before or n not in after or before[n].shape != after[n].shape]
    if type(trained) is not type(start) or differing:
        there, here = (_described(encoder, differing[:1]) for encoder in (start, trained))
        raise ValueError(f"the start is of another size than the trained model: {there} and {here}")
    weights = average(after, before, share)
    with next(iter(after.values())).device:
        encoder = build_encoder(trained.config).to(trained.dtype).train(trained.training)
    if isinstance(encoder, DualEncoder):
        load_state(encoder, weights)
    else:
        encoder.load_state_dict(weights)
    return encoder


def _state(encoder: Encoder) -> dict[str, Tensor]:
    """All weights by name, adapters merged, a CLIP's text positions in one piece whichever of them are trained."""
    return whole_state(encoder) if isinstance(encoder, DualEncoder) else plain_state(encoder)


def _described(encoder: Encoder, names: list[str]) -> str:
    shapes = _state(encoder)
    sizes = ["x".join(map(str, shapes[name].shape)) if name in shapes else "missing" for name in names]
    return " ".join([type(encoder).__name__, *(f"({name} {size})" for name, size in zip(names, sizes, strict=True))])


TRAINED, AVERAGED = "encoder.", "averaged."  # how the names of both begin in a checkpoint


def fit_averaged(weights: MutableMapping[str, Tensor], keeps_average: bool) -> None:
    """Make a checkpoint's weights fit a run that keeps an average (begun at the weights) or none (it is left out)."""
    averaged = [name for name in weights if name.startswith(AVERAGED)]
    if keeps_average and not averaged:
        trained = {name: weight for name, weight in weights.items() if name.startswith(TRAINED)}
        weights.update((AVERAGED + name.removeprefix(TRAINED), weight) for name, weight in trained.items())
    elif not keeps_average:
        for name in averaged:
            del weights[name]
