"""OpenAI CLIP's byte-pair tokenizer, offline: ids exactly those of the released ``clip.tokenize``.

The merges come from the installed ``open_clip`` package (found, not imported: its import is slow); the ``tokenizers``
library encodes. Unlike in the published β-CLIP code, a text longer than the context keeps its EOT (OpenAI's
``truncate=True``). Without it all such texts would get the same embedding, since the feature is read at EOT.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import importlib.util
import re
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import ftfy
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as BpeTokenizer
from tokenizers.models import BPE
from typing_extensions import override

SOT = 49406
EOT = 49407
VOCAB_SIZE = 49408
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPACES = re.compile(r"\s+")


def is_plain(text: str) -> bool:
    """True if ``clean`` has nothing to mend: plain ASCII on one line, without HTML escapes."""
    return text.isascii() and text.isprintable() and "&" not in text


def clean(text: str) -> str:
    """OpenAI's cleaning: mend unicode, undo HTML escapes twice, collapse white space, lower case."""
    if not is_plain(text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _SPACES.sub(" ", text).strip().lower()


def token_hash(tokens: Sequence[int]) -> int:
    """A signed 64-bit id of a token sequence, equal on every rank, machine and run."""
    return _hash64(array("I", tokens).tobytes())


def word_hash(word: str) -> int:
    """A signed 64-bit id of a lemma or label; 0 stands for "none" and is given to the empty word only."""
    return (_hash64(word.encode()) or 1) if word else 0


def _hash64(raw: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little", signed=True)


_PHRASE = 64  # characters of a phrase at most


class TextTokenizer(Protocol):
    """The tokenizer of a text tower, as data modules and encoders use it; `Tokenizer` is CLIP's."""

    context_length: int  # the most tokens that the tower reads

    def __call__(self, text: str) -> list[int]:
        """Token ids of ``text`` as the tower reads them, special tokens included, not padded, cut to the context."""
        ...

    def whole(self, text: str) -> tuple[int, ...]:
        """All token ids of ``text``, special tokens included, however many."""
        ...

    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """``tokens`` cut to the context, the last special token kept."""
        ...

    def length(self, text: str) -> int:
        """The number of tokens of ``text`` before truncation, special tokens included."""
        ...

    def span(self, text: str, start: int, end: int) -> tuple[int, int] | None:
        """The token span [first, last) of the characters ``text[start:end]`` within ``self(text)``; None where there is
        none.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        ...


class Tokenizer(TextTokenizer):
    """``Tokenizer(context_length=248)(text)`` gives token ids, SOT and EOT included, not padded, at most
    ``context_length``.

    Raises ``ValueError`` for a context below 3 (SOT, one token, EOT).
    """

    def __init__(self, context_length: int = 248) -> None:
        if context_length < 3:
            raise ValueError(f"context_length must be at least 3 (SOT, one token, EOT), got {context_length}")
        self.context_length = context_length

    @override
    def __call__(self, text: str) -> list[int]:
        """Token ids of ``text``, cut to the context."""
        return list(self.cut(_encode(text)))

    @override
    def whole(self, text: str) -> tuple[int, ...]:
        """All token ids of ``text``, SOT and EOT included, however many."""
        return _encode(text)

    @override
    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """``tokens`` cut to the context, EOT kept."""
        return tokens if len(tokens) <= self.context_length else (*tokens[: self.context_length - 1], EOT)

    @override
    def length(self, text: str) -> int:
        """The number of tokens of ``text`` before truncation, SOT and EOT included."""
        return len(_encode(text))

    @override
    def span(self, text: str, start: int, end: int) -> tuple[int, int] | None:
        """The token span [first, last) of the characters ``text[start:end]`` within ``self(text)``; SOT is token 0.

        None where the span does not fall on token borders or is cut off by the context.
        """
        lowered, starts, ends = _offsets(text)
        if lowered:  # cleaning kept every character in its place
            first, last = bisect_left(starts, start), bisect_left(ends, end)
            on_borders = first < len(starts) and last < len(ends) and starts[first] == start and ends[last] == end
            return (first + 1, last + 2) if on_borders and last + 2 < self.context_length else None
        piece = _encode(text[start:end])[1:-1]
        first = len(_encode(text[:start])) - 1
        last = first + len(piece)
        if not piece or last > self.context_length - 1 or _encode(text)[first:last] != piece:
            return None
        return first, last

    @override
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without SOT and EOT, in lower case, with a space between words."""
        byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
        pieces = "".join(backend().id_to_token(t) or "" for t in tokens if t not in (SOT, EOT))
        words = [w for w in pieces.split("</w>") if w]
        return " ".join(bytes(byte_of[c] for c in word).decode("utf-8", "replace") for word in words)


def _encode(text: str) -> tuple[int, ...]:
    return (_encode_phrase if len(text) <= _PHRASE else _encode_caption)(text)


def _encoded(text: str) -> tuple[int, ...]:
    return (SOT, *backend().encode(clean(text)).ids, EOT)


# Phrases recur, in other images too; a caption only while its own sample is made.
_encode_phrase = lru_cache(maxsize=1 << 13)(_encoded)
_encode_caption = lru_cache(maxsize=1 << 5)(_encoded)


@lru_cache(maxsize=1 << 3)
def _offsets(text: str) -> tuple[bool, list[int], list[int]]:
    """True where cleaning only lowers the case of ``text``, and then the first and last+1 character of every token."""
    if clean(text) != text.lower() or not text.isascii():
        return False, [], []
    offsets = backend().encode(text.lower()).offsets
    return True, [start for start, _ in offsets], [end for _, end in offsets]


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte: itself where it prints, else the next character from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(stand_ins)) for b in range(256)]


@lru_cache(maxsize=1)
def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's word pieces with their ids, SOT and EOT last, and its merges, the most urgent first."""
    with gzip.open(_merges_file(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [(first, second) for first, second in map(str.split, lines[1 : VOCAB_SIZE - 2 * 256 - 2 + 1])]
    characters = _byte_characters()
    alphabet = sorted(
        characters, key=lambda c: (ord(c) >= 256, ord(c))
    )  # the vocabulary's order: printable bytes first
    pieces = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges)]
    return {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}, merges


@lru_cache(maxsize=1)
def backend() -> BpeTokenizer:
    """The library's tokenizer of CLIP's word pieces: of cleaned texts, without SOT and EOT."""
    vocab, merges = vocabulary()
    tokenizer = BpeTokenizer(BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _merges_file() -> Path:
    spec = importlib.util.find_spec("open_clip")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
        if file.is_file():
            return file
    raise FileNotFoundError(
        "bpe_simple_vocab_16e6.txt.gz of the package open_clip_torch was not found; pip install open_clip_torch"
    )
