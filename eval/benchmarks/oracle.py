"""``oracle:FILE``: a retrieval that LEAKS its answers, as some published code prints it beside the real one.

Each image is pooled by its own caption (text-conditioned attention) and then compared with all captions. The image
has seen the right answer: 99 % on Urban1k says nothing about retrieval. It is here to recognise such numbers by.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.benchmarks.retrieval_file import read_table
from eval.data.caption_preprocessing import raw
from eval.data.image_preprocessing import centre_crop
from eval.interfaces import EvalContext, Result
from eval.metrics.bidirectional_ranking import rank_bidirectional
from eval.metrics.gather import rank, world_size
from eval.metrics.similarity import unit_rows
from eval.protocols.embed import ahead, embed_texts, in_batches, pixels, together
from eval.protocols.image_text_retrieval import text_counts


@dataclass(frozen=True)
class OracleFile:
    """The oracle of one table of images and captions; the first caption of an image counts."""

    file: str

    @property
    def __name__(self) -> str:
        return f"oracle:{self.file}"

    def __call__(self, model: Any, run: EvalContext) -> Result:
        """Both ways. Raises ValueError where the model has no text-conditioned attention."""
        data = read_table(run, self.file)
        wording, fit = run.wording or raw, run.fit or centre_crop
        captions = [wording(texts[0]) for texts in data.captions]
        name = f"oracle:{Path(self.file).stem} (leaks)"
        texts = embed_texts(model, run, captions, name)

        def square(number: int) -> torch.Tensor:
            return pixels(fit, data.images[number], model.image_size)

        batches, rows = in_batches(len(captions), run.batch_size), []
        mine = batches[rank() :: world_size()]
        for part, squares in zip(mine, ahead(square, run.track(mine, name)), strict=True):
            dense = model.encode_image(torch.stack(squares)).dense
            own = texts[part.start : part.stop].to(dense.device)
            views = model.condition(own, dense, torch.arange(len(part), device=dense.device))
            rows.append(unit_rows(f"{name}: views", views).cpu())
        found = rank_bidirectional(together(rows, batches), texts, torch.arange(len(captions)))
        numbers = {
            f"{name}/{way}/R@{k}": ranks.recall(k)
            for way, ranks in (("text_to_image", found.text_to_image), ("image_to_text", found.image_to_text))
            for k in (1, 5, 10)
        }
        counts = data.counts | text_counts(model, captions)
        settings = {
            "protocol": "LEAKS: each image is pooled by its own caption before it is compared",
            "image": f"{fit.__name__}, {model.image_size}×{model.image_size}",
            "caption": f"{wording.__name__}, the first of an image",
            "context length": model.context_length,
            "images": len(data.images),
            "split sha256": data.sha256,
            "files": data.files,
            "counts": dict(counts),
        }
        return Result(numbers, settings, dict(counts))
