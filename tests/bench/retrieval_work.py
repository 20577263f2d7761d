"""Ranking five captions an image both ways: ours beside torchmetrics' hit rate, one K of one direction.

At COCO's size, 5000 images, torchmetrics takes 17 GB and the better part of a minute; it is measured on 1000.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

EACH, WIDTH = 5, 512


def ranking(side: str, count: int) -> Callable[[], None]:
    """R@1, 5 and 10 in both directions (new), or R@1 from text to image (old)."""
    torch.manual_seed(0)
    owner = torch.arange(EACH * count) // EACH
    images = functional.normalize(torch.randn(count, WIDTH), dim=1)
    texts = functional.normalize(images[owner] + 0.2 * torch.randn(len(owner), WIDTH), dim=1)

    def new() -> None:
        from eval.metrics.bidirectional_ranking import rank_bidirectional

        found = rank_bidirectional(images, texts, owner)
        for ranks in (found.text_to_image, found.image_to_text):
            for k in (1, 5, 10):
                ranks.recall(k)

    def old() -> None:
        from torchmetrics.retrieval import RetrievalHitRate

        metric = RetrievalHitRate(top_k=1)
        scores = (texts @ images.T).flatten()
        right = (owner[:, None] == torch.arange(count)).flatten()
        metric.update(scores, right, torch.arange(len(owner)).repeat_interleave(count))
        metric.compute()

    return new if side == "new" else old
