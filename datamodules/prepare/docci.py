"""DOCCI (Onoe et al., 2024) as shards: 15,000 photographs with captions of 136 words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datamodules.extractors import ExtractorName, extractor_named
from datamodules.prepare.layout import NAME, PATH, described
from datamodules.prepare.records import Record, path_key, write_records
from datamodules.prepare.streams import json_lines
from datamodules.prepare.units import Scale


def prepare_docci(
    images: Path,
    annotations: Path,
    out: Path,
    split: Literal["train", "test", "qual_dev", "qual_test"] = "train",
    max_side: int | None = None,
    scale: Scale = Scale(),
    extractor: ExtractorName = "nltk",
    spacy_model: str = "en_core_web_sm",
) -> dict[str, Any] | None:
    """Write shards from DOCCI (docci_descriptions.jsonlines). Its pictures have 12 megapixels: think of `max_side`.

    Args:
        images: the folder of the pictures.
        annotations: docci_descriptions.jsonlines.
        out: the folder to write to.
        split: which of its images.
        max_side: pictures with a longer side, in pixels, are made smaller.
        scale: processes, part of a job array, images of a shard.
        extractor: who finds sentences and phrases: NLTK, rules that need no data, or spaCy.
        spacy_model: the pipeline of `--extractor spacy`, a name or a folder.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the file is missing.
        LayoutError: it is not laid out as DOCCI's.
        ValueError: a number is out of its range, or no image was left to write.
    """

    def records() -> Iterator[Record]:
        for number, row in enumerate(json_lines(annotations)):
            for field, rule in {"split": NAME, "image_file": PATH, "description": NAME}.items():
                rule.check(f"{annotations}: line {number + 1}'s '{field}'", row.get(field))
            if row["split"] == split:
                file = row["image_file"]
                yield Record(path_key(file), file, images / file, row["description"])

    settings = {"annotations": described(annotations), "split": split}
    return write_records(
        records(),
        out,
        source="docci",
        settings=settings,
        max_side=max_side,
        scale=scale,
        extractor=extractor_named(extractor, spacy_model),
    )
