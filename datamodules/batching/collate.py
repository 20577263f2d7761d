"""Collate samples into a batch: each text once, each grain an index into the set of unique token sequences."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor

from datamodules.batch import Batch, Crops, Grain, Lexemes, MultipleChoice, RaggedTexts, Regions, Skip, TextSlots
from datamodules.batching.image_transforms import ImageTransform
from datamodules.batching.region_sampling import RegionSampling
from datamodules.batching.stored_tokens import StoredTokens, read_tokens
from datamodules.batching.text_sampling import GrainSampling, SampledTexts
from datamodules.batching.tokenizer import TextTokenizer, token_hash, word_hash
from datamodules.image_decoding import open_image
from datamodules.sample import Box, Phrase, Sample

Tokens = tuple[int, ...]


@dataclass
class PreparedSample:
    """One image ready to be batched: pixels, token sequences per grain, boxes.

    ``id`` is a hash of the key until a reader replaces it by one of shard and number.
    """

    key: str
    id: int
    pixels: Tensor
    grains: dict[Grain, list[Tokens]]
    spans: list[tuple[int, int]]
    lemmas: list[int]
    boxes: np.ndarray
    labels: list[int]
    links: list[tuple[int, int]]
    choices: list[tuple[int, str, list[Tokens]]]
    crops: Tensor  # of the first boxes
    counts: Counter[str] = field(default_factory=Counter)  # "truncated/GRAIN", "dropped/WHAT"


@dataclass(frozen=True)
class SamplePreprocessor:
    """Turns a stored sample into a ``PreparedSample``: image cropped, texts sampled and tokenised, boxes transformed.

    Args:
        image_size: side of the square in pixels.
        transform: the part of the image that becomes the square.
        sampling: the texts that are drawn.
        tokenizer: also sets the context length.
        random_texts: draw texts and boxes at random (training), or take the first texts and all boxes (evaluation).
        regions: the boxes that are drawn, and those of them that are crops too.
        resampling: of images that are resized.
    """

    image_size: int
    transform: ImageTransform
    sampling: GrainSampling
    tokenizer: TextTokenizer
    random_texts: bool
    regions: RegionSampling = RegionSampling()
    resampling: Resampling = Resampling.BICUBIC

    def __call__(self, sample: Sample, rng: random.Random) -> PreparedSample:
        """Raises ``SampleError`` (reason ``image``) where the image cannot be used, ``ForeignTokens`` where the stored
        token ids are of another tokenizer.
        """
        distinct_boxes = list(dict.fromkeys(r.box for r in sample.regions))
        boxes = np.array(distinct_boxes, dtype=np.float64).reshape(-1, 4)
        stored_tokens = read_tokens(sample, self.tokenizer)
        image, counts = open_image(sample.image), Counter[str]()
        large = self.regions.large(boxes, *image.size) | (not self.random_texts)
        pixels, square_boxes, in_square = self.transform(image, boxes, self.image_size, rng, self.resampling)
        counts["dropped/small box"] += int((~large).sum())
        text_rng = rng if self.random_texts else None
        box_rows = self.regions.draw(np.flatnonzero(in_square & large).tolist(), text_rng)
        row = {distinct_boxes[box]: i for i, box in enumerate(box_rows)}
        labels = _labels(sample)
        sampled = self.sampling.draw(sample, text_rng)
        return PreparedSample(
            key=sample.key,
            id=word_hash(sample.key),
            pixels=pixels,
            grains={
                grain: [self._cut(self._whole(text, sampled, stored_tokens), grain, counts) for text in texts]
                for grain, texts in sampled.texts().items()
            },
            spans=self._spans(sampled, stored_tokens, counts),
            lemmas=[word_hash(p.lemma) for p in sampled.phrases],
            boxes=square_boxes[box_rows],
            labels=[word_hash(labels.get(box, "")) for box in row],
            links=_links(sample, sampled, row),
            choices=[
                (row[box], c.level, [tuple(self.tokenizer(t)) for t in c.texts])
                for c in sample.choices
                if (box := sample.regions[c.region].box) in row
            ],
            crops=self.regions.cut(
                sample.image, boxes[box_rows[: self.regions.crops]], self.image_size, self.resampling
            ),
            counts=counts,
        )

    def _whole(self, text: str, sampled: SampledTexts, stored: StoredTokens | None) -> Tokens:
        """All tokens of a sampled text: the stored ones where there are any."""
        tokens = None if stored is None else stored.ids.get(text)
        if tokens is None and stored is not None and text == sampled.caption:
            tokens = stored.joined(sampled.sentences)
        return self.tokenizer.whole(text) if tokens is None else tokens

    def _cut(self, tokens: Tokens, grain: Grain, counts: Counter[str]) -> Tokens:
        if len(tokens) > self.tokenizer.context_length:
            counts[f"truncated/{grain.value}"] += 1
        return self.tokenizer.cut(tokens)

    def _spans(self, sampled: SampledTexts, stored: StoredTokens | None, counts: Counter[str]) -> list[tuple[int, int]]:
        """Spans of phrases in the caption's tokens; (0, 0), and counted, where the context cuts one off."""
        if not sampled.verbatim:
            return [(0, 0)] * len(sampled.phrases)
        if stored is None:
            spans = [self.tokenizer.span(sampled.caption, p.start, p.end) for p in sampled.phrases]
        else:
            spans = [self._span(sampled.caption, p, stored) for p in sampled.phrases]
        counts["dropped/lexeme"] += spans.count(None)
        return [span or (0, 0) for span in spans]

    def _span(self, caption: str, phrase: Phrase, stored: StoredTokens) -> tuple[int, int] | None:
        characters = phrase.start, phrase.end
        if characters not in stored.spans:  # a stop-phrase
            return self.tokenizer.span(caption, *characters)
        span = stored.spans[characters]
        return span if span is not None and span[1] < self.tokenizer.context_length else None


def _labels(sample: Sample) -> dict[Box, str]:
    """The first label of each box that has one: regions that repeat a box for other phrases may have none."""
    labels: dict[Box, str] = {}
    for region in sample.regions:
        if region.label is not None:
            labels.setdefault(region.box, region.label)
    return labels


def _links(sample: Sample, sampled: SampledTexts, row: dict[Box, int]) -> list[tuple[int, int]]:
    """(row of ``boxes``, slot of ``phrases``) of every region whose box and phrase were both sampled.

    A phrase's words do not decide its box: of two men that a caption calls "a man", each has its own box.
    """
    slot = {phrase: i for i, phrase in enumerate(sampled.phrases)}
    links: dict[tuple[int, int], None] = {}
    for region in sample.regions:
        if region.phrase is None or region.box not in row:
            continue
        phrase_slot = slot.get(sample.phrases[region.phrase])
        if phrase_slot is not None:
            links[row[region.box], phrase_slot] = None
    return list(links)


class _UniqueTexts:
    def __init__(self) -> None:
        self.row: dict[Tokens, int] = {}

    def add(self, tokens: Tokens) -> int:
        return self.row.setdefault(tokens, len(self.row))

    def texts(self) -> RaggedTexts:
        lengths = [len(t) for t in self.row]
        return RaggedTexts(
            tokens=torch.tensor([t for tokens in self.row for t in tokens], dtype=torch.long),
            offsets=torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.long),
            ids=torch.tensor([token_hash(t) for t in self.row], dtype=torch.long),
        )


def collate(items: Sequence[PreparedSample], skipped: Sequence[Skip] = ()) -> Batch:
    """One batch of ``items``, at least one; ``skipped`` are the samples left out since the previous batch."""
    unique = _UniqueTexts()
    grains = {grain: _slots([item.grains[grain] for item in items], unique) for grain in Grain}
    width = grains[Grain.PHRASE].index.shape[1]
    counts = _skip_counts(skipped)
    for item in items:
        counts.update(item.counts)
    first_box = np.cumsum([0, *(len(item.boxes) for item in items)]).tolist()
    return Batch(
        images=torch.stack([item.pixels for item in items]),
        grains=grains,
        lexemes=Lexemes(
            span=torch.tensor([[*i.spans, *[(0, 0)] * (width - len(i.spans))] for i in items]).reshape(-1, width, 2),
            lemma=torch.tensor([[*i.lemmas, *[0] * (width - len(i.lemmas))] for i in items]).reshape(-1, width),
        ),
        regions=_regions(items, first_box),
        crops=_crops(items, first_box),
        choices=_choices(items, first_box, unique),
        texts=unique.texts(),
        keys=[item.key for item in items],
        ids=torch.tensor([item.id for item in items], dtype=torch.long),
        skipped=list(skipped),
        counts={name: n for name, n in counts.items() if n},
    )


def empty_batch(prepare: SamplePreprocessor, skipped: Sequence[Skip] = ()) -> Batch:
    """A batch without images, for a rank whose samples are used up before the other ranks'.

    Its one text keeps the text tower's input from being empty; no slot points at it.
    """
    none, flat = torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    pixels, slots = (
        torch.zeros(0, 3, prepare.image_size, prepare.image_size, dtype=torch.uint8),
        TextSlots(none, none > 0),
    )
    return Batch(
        images=pixels,
        texts=pack_texts([""], prepare.tokenizer)[0],
        grains=dict.fromkeys(Grain, slots),
        lexemes=Lexemes(torch.zeros(0, 1, 2, dtype=torch.long), none),
        regions=Regions(torch.zeros(0, 4), flat, flat, torch.zeros(0, 2, dtype=torch.long)),
        crops=Crops(pixels, flat),
        choices=MultipleChoice(flat, flat, none, none > 0, ()),
        keys=[],
        ids=flat,
        skipped=list(skipped),
        counts=dict(_skip_counts(skipped)),
    )


def _skip_counts(skipped: Sequence[Skip]) -> Counter[str]:
    counts = Counter[str]()
    for skip in skipped:
        counts[f"skipped/{skip.reason}"] += skip.samples
    return counts


def pack_texts(texts: Sequence[str], tokenizer: TextTokenizer) -> tuple[RaggedTexts, Tensor]:
    """Texts as a ragged set of unique token sequences, and each text's row in the set [N]."""
    unique = _UniqueTexts()
    index = torch.tensor([unique.add(tuple(tokenizer(text))) for text in texts], dtype=torch.long)
    return unique.texts(), index


def _slots(texts: list[list[Tokens]], unique: _UniqueTexts) -> TextSlots:
    """[B, K] with K the largest number of texts of this grain in the batch (at least 1, so that K is never empty)."""
    width = max(1, *(len(t) for t in texts)) if texts else 1
    index = torch.zeros(len(texts), width, dtype=torch.long)
    valid = torch.zeros(len(texts), width, dtype=torch.bool)
    for b, row in enumerate(texts):
        index[b, : len(row)] = torch.tensor([unique.add(t) for t in row], dtype=torch.long)
        valid[b, : len(row)] = True
    return TextSlots(index, valid)


def _regions(items: Sequence[PreparedSample], first_box: list[int]) -> Regions:
    links = [(first_box[b] + r, p) for b, item in enumerate(items) for r, p in item.links]
    return Regions(
        boxes=torch.from_numpy(np.concatenate([item.boxes for item in items])).float(),
        image=torch.tensor([b for b, item in enumerate(items) for _ in item.labels], dtype=torch.long),
        label=torch.tensor([label for item in items for label in item.labels], dtype=torch.long),
        links=torch.tensor(links, dtype=torch.long).reshape(-1, 2),
    )


def _crops(items: Sequence[PreparedSample], first_box: list[int]) -> Crops:
    rows = [first_box[b] + r for b, item in enumerate(items) for r in range(len(item.crops))]
    return Crops(torch.cat([item.crops for item in items]), torch.tensor(rows, dtype=torch.long))


def _choices(items: Sequence[PreparedSample], first_box: list[int], unique: _UniqueTexts) -> MultipleChoice:
    rows = [(first_box[b] + r, level, texts) for b, item in enumerate(items) for r, level, texts in item.choices]
    levels = tuple(dict.fromkeys(level for _, level, _ in rows))
    slots = _slots([texts for _, _, texts in rows], unique)
    return MultipleChoice(
        region=torch.tensor([r for r, _, _ in rows], dtype=torch.long),
        level=torch.tensor([levels.index(level) for _, level, _ in rows], dtype=torch.long),
        index=slots.index,
        valid=slots.valid,
        levels=levels,
    )
