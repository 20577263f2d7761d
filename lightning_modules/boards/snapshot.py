"""A fixed batch of validation samples as a model in training sees it.

The samples are the first of the validation set, in its order, so every snapshot has the same ones. Texts are shown
as in the shards; a text beyond the context ends where the model stops reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from lightning import Trainer
from PIL import Image
from torch import Tensor

from datamodules.batch import Batch, Grain
from datamodules.datamodule import GranularityData
from datamodules.reading.text_notes import FirstSamples
from eval.drawing.words import joined
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.methods.base import Method
from lightning_modules.networks import ImageFeatures, TextFeatures


class SampleText(NamedTuple):
    """A text of an image: its grain and number there, its words, its row among the batch's texts."""

    grain: Grain
    number: int
    words: str
    row: int

    @property
    def name(self) -> str:
        """As "phrase 2"; a caption has no number."""
        return self.grain.value if self.grain == Grain.CAPTION else f"{self.grain.value} {self.number + 1}"

    @property
    def code(self) -> str:
        """As "P2"."""
        return self.grain.value[0].upper() + ("" if self.grain == Grain.CAPTION else str(self.number + 1))


@dataclass(frozen=True)
class Snapshot:
    """The batch, embedded; pixels are 0 to 255, and all tensors are on the model's device."""

    batch: Batch
    written: Mapping[int, str]  # texts as written in the shards, by id
    images: ImageFeatures
    texts: TextFeatures
    model: EvaluationModel

    def pil_image(self, b: int) -> Image.Image:
        """The square image of sample ``b`` that the model reads."""
        return Image.fromarray(self.batch.images[b].permute(1, 2, 0).cpu().numpy())

    def read(self, b: int, most: Mapping[Grain, int]) -> list[SampleText]:
        """The texts of sample ``b``, of each grain so many at most."""
        texts = []
        for grain, limit in most.items():
            slots = self.batch.grains[grain]
            rows = slots.index[b][slots.valid[b]].tolist()[:limit]
            texts += [SampleText(grain, number, self.words(row), row) for number, row in enumerate(rows)]
        return texts

    def words(self, row: int) -> str:
        """A text of the batch as written; decoded from its tokens where that is not known."""
        if (text := self.written.get(int(self.batch.texts.ids[row]))) is not None:
            return text
        first, last = self.batch.texts.offsets[row : row + 2].tolist()
        return joined(self.model.tokenizer.decode(self.batch.texts.tokens[first:last].tolist()))

    def vectors(self, texts: list[SampleText]) -> Float[Tensor, "T D"]:
        """Unit vectors of texts."""
        return self.texts.text[torch.tensor([text.row for text in texts], dtype=torch.long)].float()

    def views(self, texts: list[SampleText], b: int) -> Float[Tensor, "T D"] | None:
        """Image ``b`` as each text sees it; None where the method has no text-conditioned attention."""
        if self.model.pooling is None:
            return None
        return self.model.condition(self.vectors(texts), self.images.dense[b : b + 1], _zeros(texts, self)).float()


def _zeros(texts: list[SampleText], snapshot: Snapshot) -> Tensor:
    return torch.zeros(len(texts), dtype=torch.long, device=snapshot.images.dense.device)


def first_samples(trainer: Trainer) -> FirstSamples | None:
    """The fixed batch of a run; None where there is no validation set, or another data module."""
    data = getattr(trainer, "datamodule", None)
    return data.first_val_samples() if isinstance(data, GranularityData) else None


def differing(batch: Batch, count: int) -> list[int]:
    """At most ``count`` samples of ``batch`` with different captions.

    Validation sets may hold near twins side by side: two scenes that differ in one thing, or frames of a film. The
    first sample is taken, then again and again the one that shares the least of its caption's tokens with any sample
    taken before, the first of these where several do. Where some samples have boxes, only these are taken.
    """
    rows = batch.grains[Grain.CAPTION].index[:, 0].tolist()
    offsets = batch.texts.offsets.tolist()
    words = [frozenset(batch.texts.tokens[offsets[row] : offsets[row + 1]].tolist()) for row in rows]
    candidates = sorted(set(batch.regions.image.tolist())) or list(range(len(rows)))
    taken: list[int] = []
    while candidates and len(taken) < count:
        best = min(candidates, key=lambda b: max((_overlap(words[b], words[t]) for t in taken), default=0.0))
        taken.append(best)
        candidates.remove(best)
    return taken


def _overlap(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / min(len(a), len(b))


@contextmanager
def looking(method: Method, samples: FirstSamples) -> Iterator[Snapshot]:
    """Embed ``samples`` with the inference encoder. Modules are in evaluation mode inside the context, and restored
    after it.
    """
    encoder, pooling = method.inference_encoder(), method.text_pooling()
    modes = {module: module.training for module in (*encoder.modules(), *(pooling.modules() if pooling else ()))}
    try:
        with torch.no_grad():
            model = EvaluationModel(encoder, method.device, pooling)
            batch = method.transfer_batch_to_device(samples.batch, method.device, 0)
            yield Snapshot(
                batch, samples.texts, model.encode_image(batch.images), encoder.encode_text(batch.texts), model
            )
    finally:
        for module, training in modes.items():
            module.training = training
