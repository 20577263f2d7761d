"""Re-ranking by text-conditioned pooling: the k nearest candidates by cosine, scored anew by the cosine of the text and
the image pooled by that text's attention (β-CLIP, arXiv 2512.12678; FLAIR, arXiv 2412.03561, ranks by such vectors).

β-CLIP trains the pooling block and does not use it at inference; here it is used, for k candidates a query. Patches are
not stored: each image is encoded a second time, with all texts that it is a candidate of, in batches that ranks share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from eval.data.image_preprocessing import Fit
from eval.data.sources import ImageSource
from eval.interfaces import AttentiveModel, EvalContext
from eval.metrics.similarity import unit_rows
from eval.protocols.embed import batch_ranges, gather_batches, load_batches, patches_of, pixels

TEXTS = 512  # that pool an image at once


def pooled_cosines(
    model: AttentiveModel,
    run: EvalContext,
    images: Sequence[ImageSource],
    fit: Fit,
    texts: Float[Tensor, "M D"],
    pairs: Int[Tensor, "P 2"],
    label: str,
) -> Float[Tensor, " P"]:
    """The cosine of each text and its image pooled by the text, on the CPU; ``pairs`` are (text, image), sorted by
    image. Collective.

    Raises ValueError where the model has no text-conditioned pooling or no patch features.
    """
    numbers, counts = pairs[:, 1].unique_consecutive(return_counts=True)
    starts = [0, *counts.cumsum(0).tolist()]
    wanted: list[int] = numbers.tolist()

    def square(place: int) -> UInt8[Tensor, "3 S S"]:
        return pixels(fit, images[wanted[place]], model.image_size)

    batches = batch_ranges(len(wanted), run.batch_size)
    rows = []
    for batch, squares in load_batches(square, batches, run, f"{label}: images for re-ranking"):
        dense = patches_of(model.encode_image(torch.stack(squares)))
        for place, one in zip(batch, dense.split(1), strict=True):
            candidates = texts[pairs[starts[place] : starts[place + 1], 0]]
            rows += [_cosines(model, part.to(dense.device), one, label) for part in candidates.split(TEXTS)]
    return gather_batches(rows, [range(starts[b[0]], starts[b[-1] + 1]) for b in batches])[:, 0]


def _cosines(
    model: AttentiveModel, texts: Float[Tensor, "n D"], dense: Float[Tensor, "1 D h w"], label: str
) -> Float[Tensor, "n 1"]:
    views = model.condition(texts, dense, torch.zeros(len(texts), dtype=torch.long, device=dense.device))
    return (unit_rows(f"{label}: pooled images", views) * texts).sum(1, keepdim=True).cpu()
