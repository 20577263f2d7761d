"""open_clip's tokenizers as data modules use them, and the rows that they make of a text's ids.

A row of ids has exactly the model's context length. A batch holds a text's ids without what fills the row; ``TextRows``
fills it again, id for id as ``open_clip.get_tokenizer`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from datamodules.batch import RaggedTexts
from datamodules.batching.library_tokenizer import LibraryTokenizer
from datamodules.batching.tokenizer import TextTokenizer, Tokenizer
from losses.core.host_copies import on_host

PROBES = ("", "A photo of two cats, on a mat.", "a b c d e f g h " * 64)  # texts by which the two are compared
_PHRASE = 64  # characters of a phrase at most: phrases recur, captions do not


@dataclass(frozen=True)
class TextRows:
    """Rows of token ids, as long as the context.

    Args:
        length: of a row, the context.
        pad: the id that fills rows.
        pad_left: fill in front of the text, not behind it.
        dropped: an id that rows hold as 0 (the SEP that CLIPA's models were trained without); None: none.
        last: an id at the end of every row, behind what fills it (CLIPS); None: none.
    """

    length: int
    pad: int = 0
    pad_left: bool = False
    dropped: int | None = None
    last: int | None = None

    def __call__(self, texts: RaggedTexts) -> tuple[Int[Tensor, "U L"], Int[Tensor, " T"]]:
        """The rows of the texts, and the place of each of their tokens in the flattened rows.

        Raises:
            ValueError: where there is no text, or one is longer than the context.
        """
        lengths = texts.offsets.diff().to(texts.tokens.device)
        room = self.length - (self.last is not None)
        most = int(np.diff(on_host(texts.offsets)).max(initial=0))
        if len(lengths) == 0 or most > room:
            longest = "none" if len(lengths) == 0 else f"one of {most} tokens"
            raise ValueError(f"texts must be one or more, of at most {room} tokens each, got {longest}")
        number = torch.arange(len(lengths), device=lengths.device)
        row = torch.repeat_interleave(number, lengths, output_size=len(texts.tokens))
        start = lengths.cumsum(0) - lengths
        column = torch.arange(len(texts.tokens), device=row.device) - start[row]
        if self.pad_left:
            column = column + room - lengths[row]
        places = row * self.length + column
        tokens = texts.tokens if self.dropped is None else texts.tokens.masked_fill(texts.tokens == self.dropped, 0)
        flat = tokens.new_full((len(lengths) * self.length,), self.pad).index_copy(0, places, tokens)
        rows = flat.view(len(lengths), self.length)
        if self.last is not None:
            rows[:, -1] = self.last
        return rows, places


class SimpleTextTokenizer(TextTokenizer):
    """open_clip's own byte-pair tokenizer where it cleans texts in another way than CLIP: SOT, the text's tokens, EOT.
    A text beyond the context loses its last tokens and keeps EOT.

    Args:
        simple: an ``open_clip.SimpleTokenizer``.
    """

    def __init__(self, simple: Any) -> None:
        self.simple, self.context_length = simple, simple.context_length

    def __getstate__(self) -> dict[str, Any]:
        return {"simple": self.simple, "context_length": self.context_length}

    @override
    def __call__(self, text: str) -> list[int]:
        return list(self.cut(self.whole(text)))

    @override
    def whole(self, text: str) -> tuple[int, ...]:
        return (self.simple.sot_token_id, *self._encoded(text), self.simple.eot_token_id)

    @override
    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        fits = len(tokens) <= self.context_length
        return tokens if fits else (*tokens[: self.context_length - 1], self.simple.eot_token_id)

    @override
    def length(self, text: str) -> int:
        return len(self._encoded(text)) + 2

    @override
    def span(self, text: str, start: int, end: int) -> tuple[int, int] | None:
        piece, first = self._encoded(text[start:end]), len(self._encoded(text[:start])) + 1
        last = first + len(piece)
        if not piece or last > self.context_length - 1 or self.whole(text)[first:last] != piece:
            return None
        return first, last

    @override
    def decode(self, tokens: Sequence[int]) -> str:
        special = set(self.simple.all_special_ids)
        return self.simple.decode([token for token in tokens if token not in special]).strip()

    def _encoded(self, text: str) -> tuple[int, ...]:
        phrases, captions = self._memory
        return (phrases if len(text) <= _PHRASE else captions)(text)

    @cached_property
    def _memory(self) -> tuple[Callable[[str], tuple[int, ...]], Callable[[str], tuple[int, ...]]]:
        """Encoding of phrases and of captions, with the last ones in memory."""
        return lru_cache(maxsize=1 << 13)(self._encode), lru_cache(maxsize=1 << 5)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.simple.encode(text))


def read_tokenizer(folder: Path, text: dict[str, Any]) -> tuple[TextTokenizer, TextRows]:
    """The tokenizer that open_clip makes for the model of a folder, and the rows that it fills.

    Args:
        folder: with ``open_clip_config.json`` and, where transformers' tokenizer is used, its files.
        text: the ``text_cfg`` of that config file.

    Raises:
        ValueError: where open_clip cannot make it, or it draws tokens at random, or makes rows of another kind.
    """
    import open_clip

    if (text.get("tokenizer_kwargs") or {}).get("reduction_mask"):
        raise ValueError("tokenizer_kwargs.reduction_mask draws a long text's tokens at random: leave it out")
    try:
        theirs: Any = open_clip.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:  # of transformers: whatever a file is at fault with
        raise ValueError(f"{text.get('hf_tokenizer_name')}: no tokenizer that reads: {_line(error)}") from error
    if hasattr(theirs, "sot_token_id"):
        is_clips = not text.get("tokenizer_kwargs")
        tokenizer = Tokenizer(theirs.context_length) if is_clips else SimpleTextTokenizer(theirs)
        rows = TextRows(theirs.context_length)
    else:
        tokenizer, rows = _of_transformers(theirs)
    _compare(theirs, tokenizer, rows)
    return tokenizer, rows


def _of_transformers(theirs: Any) -> tuple[TextTokenizer, TextRows]:
    fast, length = theirs.tokenizer, theirs.context_length
    if not fast.is_fast:
        raise ValueError(f"{type(fast).__name__} has no fast version, of which the places of words are known")
    if theirs.tokenizer_mode == "clips":
        json = _between(fast.backend_tokenizer.to_str(), fast.bos_token, fast.eos_token)
        rows = TextRows(length, fast.pad_token_id, last=fast.cls_token_id)
        return LibraryTokenizer(json, length - 1, theirs.clean_fn), rows
    dropped = fast.sep_token_id if theirs.strip_sep_token else None
    rows = TextRows(length, fast.pad_token_id, fast.padding_side == "left", dropped)
    return LibraryTokenizer(fast.backend_tokenizer.to_str(), length, theirs.clean_fn), rows


def _between(json: str, first: str, last: str) -> str:
    """The tokenizer with ``first`` before and ``last`` behind every text, in place of its own special tokens."""
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_str(json)
    special = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((first, last))]
    template = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=special)
    tokenizer.post_processor = template  # pyright: ignore[reportAttributeAccessIssue] declared as read-only
    return tokenizer.to_str()


def _compare(theirs: Any, tokenizer: TextTokenizer, rows: TextRows) -> None:
    """Raises ValueError where our rows of a few texts differ from open_clip's."""
    ids = [tokenizer(text) for text in PROBES]
    offsets = torch.tensor([0, *(len(text) for text in ids)]).cumsum(0)
    ragged = RaggedTexts(torch.tensor([i for text in ids for i in text]), offsets, torch.arange(len(ids)))
    ours, _ = rows(ragged)
    if not torch.equal(ours, theirs(list(PROBES))):
        raise ValueError("the tokenizer fills or cuts its rows in another way than is known of open_clip's")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
