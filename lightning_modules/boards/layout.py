"""TensorBoard's "Custom Scalars" tab: related curves in one chart. Tags are regular expressions."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

Layout = dict[str, dict[str, list[Any]]]


def _chart(*tags: str) -> list[Any]:
    return ["Multiline", list(tags)]


LAYOUT: Layout = {
    "losses": {
        "terms in training": _chart(r"train/loss.*"),
        "terms in validation": _chart(r"val/loss.*"),
    },
    "optimisation": {
        "logit scales, one over temperature": _chart(r"logit_scale/.*"),
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
        "time waiting for data, share": _chart(r"throughput/data_wait_fraction"),
        "useful TFLOP/s of a device": _chart(r"throughput/teraflops"),
        "model FLOPs utilisation": _chart(r"throughput/mfu"),
        "memory, GiB": _chart(r"memory/.*"),
    },
}
_FRACTION = re.compile(
    r".*/(R@\d+|top\d+|\w*accuracy)$|data/.*_share$|throughput/(data_wait_fraction|mfu)$|retention/.*"
)


def layout_for(metric_groups: Collection[str], absent: Collection[str]) -> Layout:
    """The layout of a run.

    Args:
        metric_groups: first parts of the tags that the method itself logs; they share a chart.
        absent: prefixes of tags that the run never logs; their charts are left out.
    """
    layout = {
        group: {name: chart for name, chart in charts.items() if not chart[1][0].startswith(tuple(absent))}
        for group, charts in LAYOUT.items()
    }
    if metric_groups:
        title = ", ".join(group.replace("_", " ") for group in metric_groups)
        layout["losses"][title] = _chart(*(f"{group}/.*" for group in metric_groups))
    return {group: charts for group, charts in layout.items() if charts}


def is_fraction(tag: str) -> bool:
    """True if the numbers of ``tag`` are shares, to be read in percent."""
    return _FRACTION.fullmatch(tag) is not None
