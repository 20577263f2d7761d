"""``shards:PATH``: retrieval on shards as ``lightning prepare`` writes them, at each grain that all samples have.

PATH is what ``--data.val_shards`` takes: a tar, a folder of tars or a pattern, below the current folder or below
``root``. Any of an image's own texts of the grain is right, in both directions. Texts that stand for several images
have one right image each, as in published protocols. Samples are read as they are stored; nothing is left out.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.shards.discovery import ShardError, expand_shards, find_shards
from eval.data.cache import digest
from eval.data.image_preprocessing import centre_crop
from eval.data.shard_samples import ShardSample, read_shard_samples
from eval.interfaces import EvalContext, Model, PathBenchmark, Result
from eval.protocols.embed import embed_images
from eval.protocols.image_text_retrieval import LONG_KS, ImageTexts, retrieve


class Shards(PathBenchmark):
    """The benchmark of some shards: captions, summaries and sentences."""

    kind = "shards"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """Both directions for each grain. Raises ValueError where a sample breaks the schema."""
        head = f"shards:{Path(self.path.rstrip('/')).stem}"
        samples = list(read_shard_samples(find_shards(self._pattern(run.root))))
        images = [sample.image for sample in samples]
        texts_by_grain = _texts(samples)
        captions = zip(images, texts_by_grain["caption"], strict=True)
        files = {self.path: digest(f"{image.name} {text}" for image, (text,) in captions)}
        rows = embed_images(model, run, list(images), run.fit or centre_crop, head)
        numbers, settings, counts, items = {}, {}, {}, {}
        for grain, texts in texts_by_grain.items():
            data = ImageTexts(list(images), texts, files)
            protocol = f"any {grain} of an image is right, both ways"
            result = retrieve(f"{head}/{grain}", model, run, data, protocol, LONG_KS, image_rows=rows)
            numbers |= result.numbers
            items |= result.items
            settings[grain] = result.settings
            counts |= {f"{grain}: {reason}": count for reason, count in result.counts.items()}
        return Result(numbers, settings["caption"] | {"grains": settings}, counts, items)

    def _pattern(self, root: Path) -> str:
        """The path or pattern below the current folder, or below ``root`` where nothing there matches."""
        try:
            expand_shards(self.path)
        except ShardError:
            return str(root / self.path)
        return self.path


def _texts(samples: list[ShardSample]) -> dict[str, list[list[str]]]:
    """The texts of each image by grain: captions, and the other grains of which every image has a text."""
    by_grain = {
        "caption": [[entry.sample.caption] for entry in samples],
        "summary": [[entry.sample.summary] if entry.sample.summary else [] for entry in samples],
        "sentence": [list(entry.sample.sentences) for entry in samples],
    }
    return {grain: texts for grain, texts in by_grain.items() if all(texts)}
