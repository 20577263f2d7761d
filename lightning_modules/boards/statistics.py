"""Numbers of a snapshot of fixed samples: geometry of the embeddings, similarities by kind of pair, short-text
retrieval.

Pairs by kind, for each grain: a text with its own image is ``positive``; with the views of its image's other texts
``same image``; where the same text belongs to another image too, ``duplicate``; all others ``negative``. Where a
method has text-conditioned attention, an image is seen by each of its texts of that grain; else it is the image's
own vector, and there is nothing that is "same image".
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.batch import Grain
from eval.metrics.embedding_geometry import alignment, effective_rank, modality_gap, uniformity
from eval.metrics.ranking import Ties, rank_matrix
from eval.metrics.retrieval import slot_rows
from lightning_modules.boards.snapshot import Snapshot

GRAINS = (Grain.CAPTION, Grain.SENTENCE, Grain.PHRASE)


def geometry(snapshot: Snapshot) -> dict[str, float]:
    """Alignment, uniformity, modality gap and effective rank of images and captions."""
    images = snapshot.images.image.float()
    captions = snapshot.texts.text[snapshot.batch.grains[Grain.CAPTION].index[:, 0]].float()
    numbers = {
        "alignment": alignment(images, captions),
        "modality_gap": modality_gap(images, captions),
        "effective_rank/image": effective_rank(images),
        "effective_rank/caption": effective_rank(captions),
    }
    if len(images) > 1:
        numbers |= {"uniformity/image": uniformity(images), "uniformity/caption": uniformity(captions)}
    return {f"geometry/{name}": number for name, number in numbers.items()}


def similarities(snapshot: Snapshot) -> dict[str, Float[Tensor, " _"]]:
    """Cosines by ``GRAIN/KIND``; kinds of which there is no pair are left out."""
    by_kind: dict[str, Tensor] = {}
    for grain in GRAINS:
        text, image = slot_rows(snapshot.batch.grains[grain])
        if len(text) == 0:
            continue
        vectors = snapshot.texts.text[text].float()
        if snapshot.model.pooling is None:
            cosines = snapshot.images.image.float() @ vectors.T
            owner, own_text = torch.arange(len(cosines), device=image.device), None
        else:
            cosines = snapshot.model.condition(vectors, snapshot.images.dense, image).float() @ vectors.T
            owner, own_text = image, text
        for kind, pairs in kinds(owner, own_text, image, text).items():
            if pairs.any():
                by_kind[f"{grain.value}/{kind}"] = cosines[pairs].cpu()
    return by_kind


def kinds(
    owner: Int[Tensor, " R"], own_text: Int[Tensor, " R"] | None, image: Int[Tensor, " C"], text: Int[Tensor, " C"]
) -> dict[str, Bool[Tensor, "R C"]]:
    """Masks of the pairs of rows and columns by kind.

    Args:
        owner: the image of each row.
        own_text: the text through which a row sees its image; None: rows are whole images.
        image, text: image and text of each column; equal texts have equal numbers.
    """
    within = owner[:, None] == image
    if own_text is None:
        has_text = torch.zeros(len(owner), int(text.max()) + 1, dtype=torch.bool, device=text.device)
        has_text[image, text] = True  # rows are the images 0, 1, 2...
        positive, same_text = within, has_text[:, text]
    else:
        same_text = own_text[:, None] == text
        positive = within & same_text
    return {
        "positive": positive,
        "same image": within & ~positive,
        "duplicate": ~within & same_text,
        "negative": ~within & ~same_text,
    }


def short_retrieval(snapshot: Snapshot) -> dict[str, float]:
    """R@1, mean of both directions, of whole captions and of short texts: the summary, else the first sentence."""
    short = next((g for g in (Grain.SUMMARY, Grain.SENTENCE) if snapshot.batch.grains[g].valid[:, 0].all()), None)
    numbers = {}
    for name, grain in {"caption": Grain.CAPTION, "short text": short}.items():
        if grain is None:
            continue
        rows = snapshot.batch.grains[grain].index[:, 0]
        cosines = (snapshot.texts.text[rows].float() @ snapshot.images.image.float().T).cpu()
        positive = rows.cpu()[:, None] == rows.cpu()
        recalls = [rank_matrix(c, positive).recall(1, Ties.OPTIMISTIC) for c in (cosines, cosines.T)]
        numbers[name] = sum(recalls) / 2
    return numbers
