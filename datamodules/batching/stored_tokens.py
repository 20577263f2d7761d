"""Texts' token ids, stored beside them in a shard (``KEY.tokens``), so that training does not tokenise.

The ids are OpenAI CLIP's, whole: a text is cut to the context when it is read. With them are stored the spans of the
phrases in the caption's tokens. The bytes: ``BPE1``, the number of texts and of phrases, the length of each text, the
[first, last) token of each phrase ((0, 0) where it has none), then all ids; numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datamodules.batching.tokenizer import EOT, SOT, VOCAB_SIZE, TextTokenizer, Tokenizer, is_plain
from datamodules.sample import Sample, SampleError

_MAGIC = b"BPE1"
_HEAD = struct.Struct("<4sII")


class ForeignTokens(ValueError):
    """Stored ids that the model's tokenizer did not make."""


@dataclass(frozen=True)
class StoredTokens:
    """Token ids by text, SOT and EOT included; phrases' places in the caption's tokens by their characters."""

    ids: dict[str, tuple[int, ...]]
    spans: dict[tuple[int, int], tuple[int, int] | None]

    def joined(self, texts: Sequence[str]) -> tuple[int, ...] | None:
        """The ids of ``texts`` joined by spaces; None where they do not follow from the ids of the parts."""
        if not all(is_plain(text) and text in self.ids for text in texts):
            return None  # mending looks at a text as a whole
        return (SOT, *(token for text in texts for token in self.ids[text][1:-1]), EOT)


def with_tokens(sample: Sample) -> Sample:
    """``sample`` with the token ids of its texts."""
    tokenizer = Tokenizer(1 << 20)
    texts = [tokenizer.whole(text) for text in _texts(sample)]
    spans = [tokenizer.span(sample.caption, phrase.start, phrase.end) or (0, 0) for phrase in sample.phrases]
    parts = [
        np.array([len(ids) for ids in texts], dtype="<u4"),
        np.array(spans, dtype="<u4").reshape(-1, 2),
        np.array([token for ids in texts for token in ids], dtype="<u2"),
    ]
    head = _HEAD.pack(_MAGIC, len(texts), len(spans))
    return replace(sample, tokens=head + b"".join(part.tobytes() for part in parts))


def read_tokens(sample: Sample, tokenizer: TextTokenizer | None = None) -> StoredTokens | None:
    """The tokens stored with ``sample``, for a model of this tokenizer (None: CLIP's); None where there are none.

    Raises:
        SampleError: (reason ``tokens``) it is damaged, or belongs to other texts.
        ForeignTokens: the model's tokenizer is not CLIP's.
    """
    if not sample.tokens:
        return None
    if not isinstance(tokenizer, Tokenizer | None):
        raise ForeignTokens(
            "its stored token ids are CLIP's and the model has another tokenizer: prepare the shards without --tokens"
        )
    texts, data = _texts(sample), sample.tokens
    magic, count, phrases = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0, 0)
    if magic != _MAGIC or (count, phrases) != (len(texts), len(sample.phrases)):
        raise SampleError(
            "tokens", f"the stored tokens are of {count} texts and {phrases} phrases, not of this sample's"
        )
    ids_start = _HEAD.size + 4 * count + 8 * phrases
    lengths = np.frombuffer(data[_HEAD.size :].ljust(4 * count, b"\0"), "<u4", count).astype(np.int64)
    if len(data) != ids_start + 2 * int(lengths.sum()) or lengths.min() < 2:
        raise SampleError("tokens", f"the stored tokens have {len(data)} bytes, not as many as their lengths say")
    stored_spans = np.frombuffer(data[_HEAD.size + 4 * count : ids_start], "<u4").reshape(-1, 2).tolist()
    ids = np.frombuffer(data[ids_start:], "<u2")
    ends = np.cumsum(lengths)
    if (ids >= VOCAB_SIZE).any() or (ids[ends - lengths] != SOT).any() or (ids[ends - 1] != EOT).any():
        raise SampleError("tokens", "the stored tokens are no texts of CLIP's vocabulary, from SOT to EOT")
    rows = ids.tolist()
    starts = (ends - lengths).tolist()
    tokens_of = {text: tuple(rows[a:b]) for text, a, b in zip(texts, starts, ends.tolist(), strict=True)}
    longest = len(tokens_of[sample.caption])
    if any(not (first == last == 0 or 0 < first < last < longest) for first, last in stored_spans):
        raise SampleError("tokens", "a stored phrase lies outside the caption's tokens")
    spans = [(first, last) if last else None for first, last in stored_spans]
    return StoredTokens(tokens_of, dict(zip([(p.start, p.end) for p in sample.phrases], spans, strict=True)))


def _texts(sample: Sample) -> list[str]:
    summary = [] if sample.summary is None else [sample.summary]
    return [sample.caption, *summary, *sample.sentences, *(phrase.text for phrase in sample.phrases)]
