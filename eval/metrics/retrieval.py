"""Image-text retrieval: R@K in both directions, for captions (one text an image) and sentences (several).

The arguments of :meth:`Retrieval.update` choose between two protocols. Without ``text_ids`` every text is a query of
its own and only its image is right: the papers' protocol (COCO's 25,000 captions are 25,000 queries, although images
share 321 of them word for word). With ``text_ids`` texts of equal id are one text, one query and one candidate, and all
images that have it are right: the protocol for sentences, where "The sky is blue." belongs to many images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.batch import TextSlots
from eval.metrics.distributed_table import TableMetric, first_of_each, key_ids, member_ids
from eval.metrics.ranking import Ranks, Ties, checked_ks, rank_embeddings
from eval.metrics.similarity import check_index, unit_rows


def slot_rows(slots: TextSlots) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """The filled slots of a grain as two index vectors: rows of the batch's texts, and rows of its images."""
    image, slot = slots.valid.nonzero(as_tuple=True)
    return slots.index[image, slot], image


class Retrieval(TableMetric):
    """R@K of image-text retrieval, over batches and ranks; ``compute`` gives ``{name/direction/measure: number}``.

    ``name`` is the first part of each number's name ("caption", "val/sentence"), ``ks`` are the K of R@K, ``kwargs``
    are those of every ``torchmetrics.Metric``.
    """

    def __init__(
        self, name: str = "retrieval", ks: Sequence[int] = (1, 5, 10), ties: Ties = Ties.OPTIMISTIC, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.name, self.ks, self.ties = name, checked_ks(ks), Ties(ties)
        self.add_table("images", embedding=torch.float32)
        self.add_table("texts", embedding=torch.float32, image=torch.int64, text=torch.int64)

    def update(
        self,
        image_embeddings: Float[Tensor, "B D"],
        text_embeddings: Float[Tensor, "M D"],
        text_image: Int[Tensor, " M"],
        keys: Sequence[str] | Int[Tensor, " B"],
        text_ids: Int[Tensor, " M"] | None = None,
    ) -> None:
        """Add a batch of unit embeddings.

        ``text_image``: the row of this batch's images each text belongs to. ``keys``: unique over the data set; a
        repeated key counts once, with its texts. ``text_ids``: see the module's docstring.
        Raises ValueError for embeddings that are not finite or not unit, and rows out of range.
        """
        images = unit_rows(f"{self.name}: image_embeddings", image_embeddings)
        texts = unit_rows(f"{self.name}: text_embeddings", text_embeddings)
        ids = key_ids(keys).to(images.device)
        if len(ids) != len(images):
            raise ValueError(f"{self.name}: keys must be one an image, got {len(ids)} for {len(images)}")
        if len(text_image) != len(texts):
            raise ValueError(f"{self.name}: text_image must be one a text, got {len(text_image)} for {len(texts)}")
        check_index(f"{self.name}: text_image", text_image, len(images))
        members = member_ids(ids, text_image)
        text = members if text_ids is None else text_ids
        self.append("images", id=ids, embedding=images)
        self.append("texts", id=members, embedding=texts, image=ids[text_image], text=text)

    def compute(self) -> dict[str, float]:
        """Per direction: ``R@K``, ``chance`` (R@1 by guessing), ``ties`` (share of queries that ties may decide), all
        in [0, 1], and the number of ``queries``. {} where no rank has a text. Collective: all ranks must call it.

        An image without a text is a candidate but not a query.
        """
        images, texts = self.rows("images", f"{self.name}: keys"), self.rows("texts", f"{self.name}: keys")
        if not images or not texts:
            return {}
        first, text = first_of_each(texts["text"], texts["embedding"], f"{self.name}: text_ids")
        image = torch.searchsorted(images["id"], texts["image"])
        pairs = torch.stack([text, image], dim=1)
        candidates, gallery = images["embedding"], texts["embedding"][first]
        with_text, query = image.unique(return_inverse=True)
        return {
            **self._numbers("text_to_image", rank_embeddings(gallery, candidates, pairs), pairs, len(candidates)),
            **self._numbers(
                "image_to_text",
                rank_embeddings(candidates[with_text], gallery, torch.stack([query, text], dim=1)),
                pairs,
                len(gallery),
            ),
        }

    def _numbers(self, direction: str, ranks: Ranks, pairs: Tensor, candidates: int) -> dict[str, float]:
        head, queries = f"{self.name}/{direction}", len(ranks.optimistic)
        return {
            **{f"{head}/R@{k}": ranks.recall(k, self.ties) for k in self.ks},
            f"{head}/chance": len(pairs.unique(dim=0)) / (queries * candidates),
            f"{head}/ties": ranks.tied(),
            f"{head}/queries": float(queries),
        }
