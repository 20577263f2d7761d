"""From a source's images to shards: the progress bar while they are written, the totals when they are."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from datamodules.prepare.rejects import Rejects
from datamodules.sample import Sample
from datamodules.shard_writer import write_shards
from datamodules.tokenizer import Tokenizer

logger = logging.getLogger("grainclip")

T = TypeVar("T")


def write_source(
    items: Iterable[T],
    to_sample: Callable[[T], Sample | None],
    out: Path,
    *,
    source: str,
    rejects: Rejects,
    samples_per_shard: int,
    overwrite: bool,
) -> dict[str, Any]:
    """Write a source's images as shards, and log what was written and what was not.

    Args:
        items: the images, as the source lists them; taken one at a time.
        to_sample: makes a sample of one, or counts it in ``rejects`` and gives None.
        out, source, rejects, samples_per_shard, overwrite: see ``write_shards``.

    Returns:
        The manifest that was written.
    """
    totals = _Totals()
    progress = track(items, source, console=Console(stderr=True), disable=not sys.stderr.isatty())
    manifest = write_shards(
        totals.counted(map(to_sample, progress)),
        out,
        source=source,
        samples_per_shard=samples_per_shard,
        rejects=rejects,
        overwrite=overwrite,
    )
    logger.info("%s samples in %s shards of %s", totals.samples, len(manifest["shards"]), out)
    totals.report()
    rejects.report()
    return manifest


_FIRST = 1000  # samples whose phrases are tokenised: enough for a mean


@dataclass
class _Totals:
    samples: int = 0
    phrases: int = 0
    boxes: int = 0
    linked: int = 0
    tokens: list[int] = field(default_factory=list)  # of the phrases of the first samples
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    def counted(self, samples: Iterable[Sample | None]) -> Iterator[Sample]:
        for sample in samples:
            if sample is not None:
                self._count(sample)
                yield sample

    def _count(self, sample: Sample) -> None:
        self.samples += 1
        self.phrases += len(sample.phrases)
        self.boxes += len({region.box for region in sample.regions})
        self.linked += len({region.box for region in sample.regions if region.phrase is not None})
        if self.samples <= _FIRST:
            self.tokens += [self.tokenizer.length(phrase.text) for phrase in sample.phrases]

    def report(self) -> None:
        tokens = sum(self.tokens) / max(len(self.tokens), 1)
        per_sample = self.phrases / self.samples
        logger.info("%.1f phrases a sample, %.1f tokens a phrase (SOT and EOT included)", per_sample, tokens)
        if self.boxes:
            logger.info("%s boxes, %s of them named by a phrase", self.boxes, self.linked)
