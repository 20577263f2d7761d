"""``shards:PATH``: retrieval on shards as ``lightning prepare`` writes them, at each grain that all samples have.

PATH is what ``--data.val_shards`` takes: a tar, a folder of tars or a pattern, below the current folder or below
``root``. Any of an image's own texts of the grain is right, in both directions. A text that stands for several images
has one right image each time, as in published protocols. Nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from datamodules.sample import Sample
from datamodules.shards.discovery import ShardError, expand_shards, find_shards
from eval.data.cache import digest
from eval.data.image_preprocessing import centre_crop
from eval.data.shard_samples import read_shard_samples
from eval.data.sources import TarMember
from eval.interfaces import EvalContext, Model, PathBenchmark, Result
from eval.protocols.embed import embed_images
from eval.protocols.image_text_retrieval import LONG_KS, ImageTexts, retrieve


class Shards(PathBenchmark):
    """The benchmark of some shards: captions, summaries and sentences."""

    kind = "shards"

    @property
    @override
    def head(self) -> str:
        """With the path's last part without its ending."""
        return f"{self.kind}:{short_name(self.path)}"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """Both directions for each grain. Raises ValueError where a sample breaks the schema."""
        images, samples = read_shards(run, self.path)
        files = checksums(images, samples)
        rows = embed_images(model, run, list(images), run.fit or centre_crop, self.head)
        numbers, settings, counts, items = {}, {}, {}, {}
        for grain, texts in _texts(samples).items():
            data = ImageTexts(list(images), texts, files)
            protocol = f"any {grain} of an image is right, both ways"
            result = retrieve(f"{self.head}/{grain}", model, run, data, protocol, LONG_KS, image_rows=rows)
            numbers |= result.numbers
            items |= result.items
            settings[grain] = result.settings
            counts |= {f"{grain}: {reason}": count for reason, count in result.counts.items()}
        return Result(numbers, settings["caption"] | {"grains": settings}, counts, items)


def read_shards(run: EvalContext, path: str) -> tuple[list[TarMember], list[Sample]]:
    """Images and samples of shards below the current folder, or below ``run.root`` where nothing there matches.

    Raises ValueError where there are none, or one is damaged or remote.
    """
    try:
        expand_shards(path)
    except ShardError:
        path = str(run.root / path)
    pairs = list(read_shard_samples(find_shards(path)))
    return [pair.image for pair in pairs], [pair.sample for pair in pairs]


def checksums(images: Sequence[TarMember], samples: Sequence[Sample]) -> dict[str, str]:
    """SHA-256 of names and captions, as results state it."""
    return {"samples": digest(f"{i.name} {s.caption}" for i, s in zip(images, samples, strict=True))}


def short_name(path: str) -> str:
    """The last part of a path or pattern, without its ending."""
    return Path(path).name.removesuffix(".tar").removesuffix(".json").removesuffix(".jsonl")


def _texts(samples: Sequence[Sample]) -> dict[str, list[list[str]]]:
    """The texts of each image by grain: captions, and the other grains of which every image has a text."""
    by_grain = {
        "caption": [[sample.caption] for sample in samples],
        "summary": [[sample.summary] if sample.summary else [] for sample in samples],
        "sentence": [list(sample.sentences) for sample in samples],
    }
    return {grain: texts for grain, texts in by_grain.items() if all(texts)}
