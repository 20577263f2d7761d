"""TensorBoard's "Custom Scalars" tab: what belongs together, in one chart each. Tags are regular expressions."""

from __future__ import annotations

from typing import Any


def _chart(*tags: str) -> list[Any]:
    return ["Multiline", list(tags)]


LAYOUT: dict[str, dict[str, list[Any]]] = {
    "losses": {
        "terms in training": _chart(r"train/loss.*"),
        "terms in validation": _chart(r"val/loss.*"),
        "β-CAL by grain": _chart(r"watch/beta_cal/.*"),
    },
    "optimisation": {
        "scales, one over temperature": _chart(r"temperature/.*"),
        "gradient norms": _chart(r"gradient_norm/.*"),
        "learning rates": _chart(r"lr-.*"),
    },
    "embeddings": {
        "alignment (lower is closer)": _chart(r"geometry/alignment"),
        "uniformity (lower is more even)": _chart(r"geometry/uniformity/.*"),
        "modality gap": _chart(r"geometry/modality_gap"),
        "effective rank": _chart(r"geometry/effective_rank/.*"),
        "retention against the start": _chart(r"retention/.*"),
    },
    "retrieval": {
        "captions, R@1": _chart(r"val/caption/.*/R@1$"),
        "sentences, R@1": _chart(r"val/sentence/.*/R@1$"),
        "benchmarks, R@1": _chart(r"benchmark/.*/R@1$"),
    },
    "details": {
        "hard negatives by level": _chart(r"val/hard_negatives/.*accuracy"),
        "boxes": _chart(r"val/boxes/top\d+"),
    },
    "data and machine": {
        "tokens per image": _chart(r"data/tokens_per_image"),
        "shares: padding, duplicates": _chart(r"data/.*_share"),
        "left out, cut": _chart(r"data/(skipped|truncated|dropped).*"),
        "images per second": _chart(r"throughput/images_per_second"),
        "time waiting for data, share": _chart(r"throughput/waiting"),
        "useful TFLOP/s of a device": _chart(r"throughput/teraflops"),
        "model FLOPs utilisation": _chart(r"throughput/mfu"),
        "memory, GiB": _chart(r"memory/.*"),
    },
}
