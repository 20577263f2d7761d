"""Real captions for the benchmarks: DOCCI's where the reference data is there, else the embedded scenes'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SENTENCES, PHRASES = 5, 30
DOCCI = Path(__file__).resolve().parents[3] / "shared" / "data" / "docci_captions.jsonl"


class Grains(NamedTuple):
    """An image's texts, as in the published recipe."""

    caption: str
    sentences: list[str]
    phrases: list[str]


def captions(images: int) -> tuple[str, list[Grains]]:
    """The texts' origin, and the texts of so many images."""
    from datamodules import scenes
    from datamodules.granularity.cutting import extract_phrases, split_sentences
    from datamodules.granularity.nltk_data import missing_nltk_data

    def first(phrases: list[str]) -> list[str]:
        return list(dict.fromkeys(phrases))[:PHRASES]

    if DOCCI.is_file() and not missing_nltk_data():
        with DOCCI.open(encoding="utf-8") as file:
            texts = [json.loads(line)["caption"] for _, line in zip(range(images), file, strict=False)]
        cut = [(text, split_sentences(text)) for text in texts]
        return "DOCCI", [
            Grains(text, parts[:SENTENCES], first([p.text for p in extract_phrases(text, parts)]))
            for text, parts in cut
        ]
    samples = [scenes.sample(i, "train") for i in range(images)]
    return "scenes", [
        Grains(s.caption, list(s.sentences[:SENTENCES]), first([p.text for p in s.phrases])) for s in samples
    ]


def padded(texts: list[list[str]], slots: int) -> Tensor:
    """Token ids [B, slots, L] as published: all padded to the batch's longest text, empty slots too."""
    from datamodules.batching.tokenizer import Tokenizer

    tokenizer = Tokenizer(248)
    ids = [[tokenizer(text) for text in group] for group in texts]
    rows = torch.zeros(len(texts), slots, max(len(i) for group in ids for i in group), dtype=torch.long)
    for b, group in enumerate(ids):
        for k, tokens in enumerate(group):
            rows[b, k, : len(tokens)] = torch.tensor(tokens)
    return rows
