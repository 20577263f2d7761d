"""Any fast tokenizer of the ``tokenizers`` library, from the text of its ``tokenizer.json``, as a text tower reads it.

Ids are the library's: its normaliser, its special tokens, no padding. A text longer than the context loses its last
tokens and keeps the special ones behind them (EOS, SEP), as transformers truncates. What cleans a text beforehand is
best one of the library's normalisers (``with_normalizers``), which keeps account of each character's place; a cleaning
in Python (``clean``) may change the text too, and spans are then looked for in what it leaves.
"""

from __future__ import annotations

import base64
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import normalizers
from typing_extensions import override

from datamodules.batching.tokenizer import TextTokenizer

_PHRASE = 64  # characters of a phrase at most: phrases recur, captions do not


class _Encoded(NamedTuple):
    """Token ids of a whole text, and where its characters begin and end tokens."""

    ids: tuple[int, ...]
    begins: dict[int, int]  # character -> the first token that begins there
    ends: dict[int, int]  # character -> one past the last token that ends before it


class LibraryTokenizer(TextTokenizer):
    """``LibraryTokenizer(json, context_length)(text)`` gives token ids, special tokens included, not padded, at most
    ``context_length``.

    Pickled it is the text of the JSON file: loader workers build their own.

    Args:
        json: content of a ``tokenizer.json``.
        context_length: the most tokens of a text.
        clean: applied to each text before the library sees it; a function of a module's top level.

    Raises:
        ValueError: where ``json`` is no tokenizer, or the context does not hold the special tokens and one more.
    """

    def __init__(self, json: str, context_length: int, clean: Callable[[str], str] | None = None) -> None:
        self.json = sys.intern(json)  # looked up at every call: equal texts of megabytes must be one object
        self.context_length, self.clean = context_length, clean
        prefix, suffix = _special_tokens(self.json)
        if context_length < len(prefix) + len(suffix) + 1:
            raise ValueError(
                f"context_length must be at least {len(prefix) + len(suffix) + 1} (special tokens and one more), "
                f"got {context_length}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"json": self.json, "context_length": self.context_length, "clean": self.clean}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, json=sys.intern(state["json"]))

    @override
    def __call__(self, text: str) -> list[int]:
        return list(self.cut(self.whole(text)))

    @override
    def whole(self, text: str) -> tuple[int, ...]:
        return self._encoded(self._cleaned(text)).ids

    @override
    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if len(tokens) <= self.context_length:
            return tokens
        suffix = _special_tokens(self.json)[1]
        return (*tokens[: self.context_length - len(suffix)], *suffix)

    @override
    def length(self, text: str) -> int:
        return len(self.whole(text))

    @override
    def span(self, text: str, start: int, end: int) -> tuple[int, int] | None:
        if self.clean is not None:
            text, start, end = self._moved(text, start, end)
        encoded = self._encoded(text)
        first, last = encoded.begins.get(start), encoded.ends.get(end)
        most = min(len(encoded.ids), self.context_length) - len(_special_tokens(self.json)[1])
        return (first, last) if first is not None and last is not None and first < last <= most else None

    @override
    def decode(self, tokens: Sequence[int]) -> str:
        return _backend(self.json).decode(list(tokens), skip_special_tokens=True).strip()

    def _cleaned(self, text: str) -> str:
        return text if self.clean is None else self.clean(text)

    def _moved(self, text: str, start: int, end: int) -> tuple[str, int, int]:
        """The cleaned text, and the place in it of the characters ``text[start:end]``; -1 where it is lost."""
        cleaned, piece, before = self._cleaned(text), self._cleaned(text[start:end]), self._cleaned(text[:start])
        place = cleaned.find(piece, len(before)) if piece and cleaned.startswith(before) else -1
        near = 0 <= place <= len(before) + 1  # cleaning strips the space behind what stands before
        return (cleaned, place, place + len(piece)) if near else (cleaned, -1, -1)

    @cached_property
    def _memory(self) -> tuple[Callable[[str], _Encoded], Callable[[str], _Encoded]]:
        """Encoding of phrases and of captions, with the last ones in memory."""
        return lru_cache(maxsize=1 << 13)(self._encode), lru_cache(maxsize=1 << 5)(self._encode)

    def _encoded(self, text: str) -> _Encoded:
        phrases, captions = self._memory
        return (phrases if len(text) <= _PHRASE else captions)(text)

    def _encode(self, text: str) -> _Encoded:
        encoding = _backend(self.json).encode(text)
        begins: dict[int, int] = {}
        ends: dict[int, int] = {}
        places = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        for token, ((start, end), special) in enumerate(places):
            start += len(text[start:end]) - len(text[start:end].lstrip())  # a word's token may hold the space before it
            end = start + len(text[start:end].rstrip())
            if start < end and not special:
                begins.setdefault(start, token)
                ends[end] = token + 1
        return _Encoded(tuple(encoding.ids), begins, ends)


def packed(json: str) -> str:
    """The text of a ``tokenizer.json`` as a fifth of its letters, plain ASCII: as settings and checkpoints carry it."""
    return base64.b85encode(zlib.compress(json.encode(), 6)).decode()


def unpacked(text: str) -> str:
    """The text that ``packed`` packed."""
    return zlib.decompress(base64.b85decode(text)).decode()


def with_normalizers(json: str, *first: normalizers.Normalizer) -> str:
    """The ``tokenizer.json`` with these normalisers before its own."""
    tokenizer = parse(json)
    own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([*first, *own])
    return tokenizer.to_str()


def parse(json: str) -> FastTokenizer:
    """The library's tokenizer, without the padding and the truncation that the file may ask for.

    Raises:
        ValueError: where ``json`` is no tokenizer.
    """
    try:
        tokenizer = FastTokenizer.from_str(json)
    except Exception as error:  # the library raises this very class
        raise ValueError(f"no tokenizer of the tokenizers library: {str(error).splitlines()[0][:80]}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


_backend = lru_cache(maxsize=4)(parse)  # a large vocabulary takes seconds to read and is never changed


@lru_cache(maxsize=8)
def _special_tokens(json: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and behind every text."""
    encoding = _backend(json).encode("a")
    mask, ids = encoding.special_tokens_mask, tuple(encoding.ids)
    before = mask.index(0) if 0 in mask else 0
    behind = mask[::-1].index(0) if 0 in mask else len(mask)
    return ids[:before], ids[len(ids) - behind :]
