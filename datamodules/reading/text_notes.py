"""The strings of a batch's texts: a batch holds only tokens, which have lost case and spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

from lightning.pytorch.utilities.seed import isolate_rng

from datamodules.batch import Batch
from datamodules.batching.collate import SamplePreprocessor, Tokens
from datamodules.batching.stored_tokens import StoredTokens
from datamodules.batching.text_sampling import SampledTexts
from datamodules.batching.tokenizer import TextTokenizer, token_hash
from datamodules.reading.loader import PassLoader
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.reading.select_reader import single_pass
from datamodules.shards.discovery import Shard


@dataclass(frozen=True)
class RecordingPreprocessor(SamplePreprocessor):
    """A ``SamplePreprocessor`` that records every text that it draws, by the id that the text has in the batch.

    Args:
        texts: the recorded texts as they stand in the shard, on one line; a text beyond the context is cut to the
            words that the model reads, and an ellipsis.
    """

    texts: dict[int, str] = field(default_factory=dict)

    @classmethod
    def like(cls, preprocessor: SamplePreprocessor, texts: dict[int, str]) -> RecordingPreprocessor:
        """The same preprocessor, recording in ``texts``."""
        return cls(
            **{setting.name: getattr(preprocessor, setting.name) for setting in fields(SamplePreprocessor)}, texts=texts
        )

    def _whole(self, text: str, sampled: SampledTexts, stored: StoredTokens | None) -> Tokens:
        tokens = super()._whole(text, sampled, stored)
        fits_context = len(tokens) <= self.tokenizer.context_length
        line = " ".join(text.split()) if fits_context else shorten(text, self.tokenizer)
        self.texts.setdefault(token_hash(self.tokenizer.cut(tokens)), line)
        return tokens


class FirstSamples(NamedTuple):
    """A batch, and its texts as they stand in the shards, by their id in the batch."""

    batch: Batch
    texts: dict[int, str]


def first_samples(shards: Sequence[Shard], settings: ReaderSettings) -> FirstSamples | None:
    """The first batch of a pass that has any sample, read by this rank alone, without worker processes; None where no
    batch has one. The random state is kept.
    """
    texts: dict[int, str] = {}
    recording = replace(settings, prepare=RecordingPreprocessor.like(settings.prepare, texts))
    with isolate_rng():
        batches = PassLoader(single_pass(shards, recording), 0, alone=True)
        return next((FirstSamples(batch, texts) for batch in batches if batch.keys), None)


def shorten(text: str, tokenizer: TextTokenizer) -> str:
    """The first words of ``text`` that fit the context, and an ellipsis."""
    words = text.split()
    longest, too_long = 0, len(words)
    while too_long - longest > 1:
        middle = (longest + too_long) // 2
        if tokenizer.length(" ".join(words[:middle])) <= tokenizer.context_length:
            longest = middle
        else:
            too_long = middle
    return " ".join([*words[:longest], "…"])
