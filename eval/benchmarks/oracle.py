"""``oracle:FILE``: a retrieval that LEAKS its answers, as some published code prints it beside the real one.

Each image is pooled by its own caption (text-conditioned attention) and then compared with all captions, so the image
vector depends on the right answer: 99 % on Urban1k says nothing about retrieval. It serves to recognise such numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from eval.benchmarks.retrieval_file import read_table
from eval.data.caption_preprocessing import raw
from eval.data.image_preprocessing import centre_crop, fit_setting
from eval.interfaces import EvalContext, PathBenchmark, Result
from eval.metrics.bidirectional_ranking import rank_bidirectional
from eval.metrics.similarity import unit_rows
from eval.protocols.embed import batch_ranges, embed_texts, gather_batches, load_batches, patches_of, pixels
from eval.protocols.image_text_retrieval import SHORT_KS, text_counts


class OracleFile(PathBenchmark):
    """The oracle of one table of images and captions; the first caption of an image counts."""

    kind = "oracle"

    @property
    @override
    def head(self) -> str:
        """With the file's name without its ending, and a warning."""
        return f"{self.kind}:{Path(self.path).stem} (leaks)"

    def __call__(self, model: Any, run: EvalContext) -> Result:
        """Both ways. Raises ValueError where the model has no text-conditioned attention."""
        data = read_table(run, self.path)
        wording, fit = run.wording or raw, run.fit or centre_crop
        captions = [wording(texts[0]) for texts in data.captions]
        name = self.head
        texts = embed_texts(model, run, captions, name)

        def square(number: int) -> torch.Tensor:
            return pixels(fit, data.images[number], model.image_size)

        batches, rows = batch_ranges(len(captions), run.batch_size), []
        for batch, squares in load_batches(square, batches, run, name):
            dense = patches_of(model.encode_image(torch.stack(squares)))
            batch_texts = texts[batch.start : batch.stop].to(dense.device)
            views = model.condition(batch_texts, dense, torch.arange(len(batch), device=dense.device))
            rows.append(unit_rows(f"{name}: views", views).cpu())
        ranks = rank_bidirectional(gather_batches(rows, batches), texts, torch.arange(len(captions)))
        numbers = {
            f"{name}/{direction}/R@{k}": ranks_of_direction.recall(k)
            for direction, ranks_of_direction in ranks.by_direction().items()
            for k in SHORT_KS
        }
        counts = data.counts | text_counts(model, captions)
        settings = {
            "protocol": "LEAKS: each image is pooled by its own caption before it is compared",
            "image": fit_setting(fit, model.image_size),
            "caption": f"{wording.__name__}, the first of an image",
            "context length": model.context_length,
            "images": len(data.images),
            "split sha256": data.sha256,
            "files": data.files,
            "counts": dict(counts),
        }
        return Result(numbers, settings, dict(counts))
