"""Retention: how much of the starting weights' accuracy on short texts and ImageNet is left after fine-tuning.

For each benchmark of short captions and of ImageNet that both models have run: the mean ratio of the tuned model's R@1
(both directions) or top-1 to that of the starting weights. Their mean is the retention: 1 means that nothing was lost.
"""

from __future__ import annotations

from collections.abc import Mapping

HEADLINES = {
    **{
        name: tuple(f"{name}/{direction}/R@1" for direction in ("text_to_image", "image_to_text"))
        for name in ("coco_karpathy", "coco_val2017", "flickr8k", "flickr30k", "flickr30k_all")
    },
    **{name: (f"{name}/top1",) for name in ("imagenet", "imagenet_v2")},
}


def retention(start: Mapping[str, float], tuned: Mapping[str, float]) -> dict[str, float]:
    """Ratios by benchmark, and ``retention``, their mean; {} where both models share none of these benchmarks.

    Raises ValueError where the starting weights score 0.
    """
    ratios: dict[str, float] = {}
    for benchmark, names in HEADLINES.items():
        if not all(name in start and name in tuned for name in names):
            continue
        if zero := [name for name in names if start[name] == 0]:
            raise ValueError(f"retention needs starting weights that score above 0, got 0 for {zero[0]}")
        ratios[f"retention/{benchmark}"] = sum(tuned[name] / start[name] for name in names) / len(names)
    return ratios | ({"retention": sum(ratios.values()) / len(ratios)} if ratios else {})
