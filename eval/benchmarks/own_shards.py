"""``shards:PATH``: retrieval on shards in our own schema (``lightning prepare``): an image and its whole caption.

``PATH`` is a tar, a folder of tars, a glob or braces, below the current folder or below ``--root``. A summary is not
read: it says again what the caption says.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.sample import Sample
from datamodules.shards.discovery import find_shards
from eval.data.cache import digest
from eval.data.shard_samples import read_shard_samples
from eval.data.sources import TarMember
from eval.interfaces import EvalContext, Model, PathBenchmark, Result
from eval.protocols.image_text_retrieval import LONG_KS, ImageTexts, retrieve


class OwnShards(PathBenchmark):
    """The benchmark of one set of shards."""

    kind = "shards"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """Both directions, one caption an image."""
        images, samples = read_shards(run, self.path)
        captions = [[sample.caption] for sample in samples]
        data = ImageTexts(list(images), captions, checksums(images, samples))
        return retrieve(f"shards:{short_name(self.path)}", model, run, data, "one caption an image, both ways", LONG_KS)


def read_shards(run: EvalContext, pattern: str) -> tuple[list[TarMember], list[Sample]]:
    """Images and samples of local shards. Raises ValueError where there are none, or one is damaged."""
    here = Path(pattern).expanduser()
    local = here.exists() or any(letter in pattern for letter in "*?[{")
    shards = find_shards(here if local or here.is_absolute() or ":" in pattern else run.root / pattern)
    pairs = list(read_shard_samples(shards))
    return [pair.image for pair in pairs], [pair.sample for pair in pairs]


def checksums(images: list[TarMember], samples: list[Sample]) -> dict[str, str]:
    """SHA-256 of names and captions, as results state it."""
    return {"samples": digest(f"{i.name} {s.caption}" for i, s in zip(images, samples, strict=True))}


def short_name(path: str) -> str:
    """The last part of a path or pattern, without its ending."""
    return Path(path).name.removesuffix(".tar").removesuffix(".json").removesuffix(".jsonl")
