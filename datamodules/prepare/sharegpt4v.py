"""ShareGPT4V (Chen et al., 2023) as shards: 1.2 million long captions of COCO, LLaVA and SAM pictures.

The file of 1.5 GB is read as a stream. Its first 1,000 records are the evaluation set SV-1k and stay out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.extractors import ExtractorName, extractor_named
from datamodules.prepare.layout import PATH, LayoutError, described
from datamodules.prepare.records import Record, path_key, write_records
from datamodules.prepare.streams import json_array
from datamodules.prepare.units import Scale


def prepare_sharegpt4v(
    images: Path,
    annotations: Path,
    out: Path,
    held_out: int = 1000,
    max_side: int | None = None,
    scale: Scale = Scale(),
    extractor: ExtractorName = "nltk",
    spacy_model: str = "en_core_web_sm",
) -> dict[str, Any] | None:
    """Write shards from ShareGPT4V's captions (share-captioner_coco_lcs_sam_1246k_1107.json), read as a stream.

    Args:
        images: the folder in which the file's `image` paths begin (with coco/, llava/, sam/).
        annotations: the JSON file.
        out: the folder to write to.
        held_out: the first so many records never enter a shard, nor do others of their images: 1000 is SV-1k.
        max_side: pictures with a longer side, in pixels, are made smaller.
        scale: processes, part of a job array, images of a shard.
        extractor: who finds sentences and phrases: NLTK, rules that need no data, or spaCy.
        spacy_model: the pipeline of `--extractor spacy`, a name or a folder.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the file is missing.
        LayoutError: it is not laid out as ShareGPT4V's.
        ValueError: a number is out of its range, or no image was left to write.
    """
    if held_out < 0:
        raise ValueError(f"held_out must be 0 or more, got {held_out}")
    records = _sharegpt4v(images, annotations, held_out)
    settings = {"annotations": described(annotations), "held_out": held_out}
    return write_records(
        records,
        out,
        source="sharegpt4v",
        settings=settings,
        max_side=max_side,
        scale=scale,
        extractor=extractor_named(extractor, spacy_model),
    )


def _sharegpt4v(images: Path, annotations: Path, held_out: int) -> Iterator[Record]:
    kept_back: set[str] = set()
    for number, row in enumerate(json_array(annotations)):
        where = f"{annotations}: row {number}'s"
        PATH.check(f"{where} 'image'", row.get("image"))
        said = row.get("conversations")
        answers = [s.get("value") for s in said if isinstance(s, dict) and s.get("from") == "gpt"] if said else []
        if not answers or not isinstance(answers[0], str):
            raise LayoutError(f"{where} 'conversations' must hold an answer of 'gpt', got {said!r:.200}")
        if number < held_out:
            kept_back.add(row["image"])
        elif row["image"] not in kept_back:
            yield Record(path_key(row["image"]), row["image"], images / row["image"], answers[0])
