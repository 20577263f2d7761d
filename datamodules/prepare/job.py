"""Settings common to all sources: output folder, image size, extractor, processes and part."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.granularity.extractors import Extractor, ExtractorName, make_extractor
from datamodules.prepare.images import CheckedImage, shrink_to

_LEAST_SIDE = 32  # pixels


@dataclass(frozen=True)
class PrepareJob:
    """The settings of ``lightning prepare`` that all sources share.

    Args:
        out: the folder to write shards and manifest.json to.
        max_side: largest side of an image in pixels; larger images are made smaller, all others keep their bytes.
        extractor: how sentences and phrases are found: NLTK, rules that need no data, or spaCy.
        spacy_model: the pipeline of `--extractor spacy`, a name or a folder.
        samples_per_shard: images of a shard; those that are left out are not replaced.
        tokens: also store the texts' token ids, so that training does not tokenise.
        processes: shards made in parallel.
        part: "i/n": this run makes every n-th shard from the i-th on.
        overwrite: delete the shards in `out`; otherwise finished shards are kept, and missing ones made.
        quiet: no charts of the shards' statistics; what is left out is still logged.
    """

    out: Path
    max_side: int | None = None
    extractor: ExtractorName = "nltk"
    spacy_model: str = "en_core_web_sm"
    samples_per_shard: int = 1000
    tokens: bool = False
    processes: int = 1
    part: str = "1/1"
    overwrite: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < _LEAST_SIDE:
            raise ValueError(f"max_side must be at least {_LEAST_SIDE} pixels, got {self.max_side}")
        for name in ("processes", "samples_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        match = re.fullmatch(r"(\d+)/(\d+)", self.part)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"part must be 'i/n' with 1 <= i <= n, got {self.part!r}")
        if self.overwrite and match[2] != "1":
            raise ValueError(
                "overwrite must be off for a part, which would delete the shards of other parts; empty the folder first"
            )

    def makes(self, number: int) -> bool:
        """True if shard ``number`` is of this run's ``part``."""
        first, parts = map(int, self.part.split("/"))
        return number % parts == first - 1

    @property
    def text_extractor(self) -> Extractor:
        """The extractor of sentences and phrases. Raises ``ValueError`` for an unknown one."""
        return make_extractor(self.extractor, self.spacy_model)

    @property
    def content(self) -> dict[str, Any]:
        """The settings that decide a shard's content."""
        sizes = {name: getattr(self, name) for name in ("max_side", "samples_per_shard", "tokens")}
        return {**sizes, "extractor": self.text_extractor}

    def shrink(self, image: CheckedImage) -> CheckedImage:
        """The image, made smaller where it exceeds ``max_side``. Boxes in fractions stay true. Raises ``Rejected``."""
        return image if self.max_side is None else shrink_to(image, self.max_side)
