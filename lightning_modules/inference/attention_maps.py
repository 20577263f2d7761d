"""Attention maps of texts over images, for every method; used by the command ``explain`` and by TensorBoard.

For β-CLIP the pooling block's own attention is shown. It is given in multiples of the even share,
weight times the number of patches: 1 everywhere is a text that looks nowhere in particular, and the mean is 1, since
weights sum to one. Any other CLIP is shown by the cosine between text and patch, the patches being value-only
(``networks.image_tower``).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eval.drawing.heat import Heat
from eval.protocols.phrase_grounding import by_attention, by_similarity
from lightning_modules.inference.evaluation_model import EvaluationModel

ATTENTION, SIMILARITY = "attention, multiples of the even share", "cosine of patch and text"


def heat_maps(model: EvaluationModel, texts: Float[Tensor, "T D"], dense: Float[Tensor, "1 D h w"]) -> Heat:
    """Maps of unit text vectors over the patches of one image, not normalised."""
    image = torch.zeros(len(texts), dtype=torch.long, device=dense.device)
    if model.pooling is None:
        return Heat(by_similarity(model, texts, dense, image).float().cpu(), SIMILARITY)
    weights = by_attention(model, texts, dense, image).float().cpu()
    return Heat(weights * weights.shape[1], ATTENTION)
