"""NLTK's averaged perceptron tagger for English from tables: the same tags, over ten times as fast.

The perceptron adds the weights of fourteen features of a word, each voting for some of the 45 tags, in a Python loop.
Most features depend on words alone: their votes are added once per word and cached, so that the scores of a word are
five rows of a table. Only the votes of the previous tags are added word by word. Weights are whole thousandths and are
stored as integers, so sums are exact and ties are ties: the later name wins, as in NLTK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from datamodules.granularity.nltk_data import perceptron_tagger

_THOUSANDTHS = 1000  # NLTK rounds its weights to these
_CACHED_WORDS = 20_000  # at a time: 18 MB
_START, _END = ("-START-", "-START2-"), ("-END-", "-END2-")
_TAG_AND_WORD = "i-1 tag+i word "
_OFFSETS = 5  # a word as the one to be tagged, one and two before it, one and two after it
_SHIFTS = (1, 0, 3, 4)  # indices of those but the first, with two marks before the sentence


class _Row(NamedTuple):
    """A word in the table: its row, its only tag (or None), and the votes that depend on the previous tag."""

    number: int
    tag: int | None
    after: Mapping[int, Int[np.ndarray, " tags"]]


class Tagger:
    """Tags sentences. ``weights`` are votes by feature and tag, ``tagdict`` the words with a single tag."""

    def __init__(self, weights: Mapping[str, Mapping[str, float]], tagdict: Mapping[str, str]) -> None:
        self.names = sorted({*tagdict.values(), *(name for v in weights.values() for name in v)}, reverse=True)
        self._column = {name: column for column, name in enumerate(self.names)}  # argmax takes the first of equals
        self._tagdict = tagdict
        self._feature = {feature: number for number, feature in enumerate(weights)}
        self._all_votes = np.zeros((len(weights), len(self.names)), dtype=np.int32)
        features = [number for number, votes in enumerate(weights.values()) for _ in votes]
        names = [self._column[name] for votes in weights.values() for name in votes]
        values = np.array([weight for votes in weights.values() for weight in votes.values()])
        self._all_votes[features, names] = np.rint(values * _THOUSANDTHS)
        previous_tags = [*self.names, *_START]
        self._tag_number = {name: number for number, name in enumerate(previous_tags)}
        previous, second = (
            np.stack([self._votes(f"{feature_name} {tag}") for tag in previous_tags])
            for feature_name in ("i-1 tag", "i-2 tag")
        )
        pairs = np.stack([[self._votes(f"i tag+i-2 tag {a} {b}") for b in previous_tags] for a in previous_tags])
        self._history = previous[:, None] + second[None] + pairs
        self._after: dict[str, list[str]] = {}
        for feature in weights:
            if feature.startswith(_TAG_AND_WORD):
                name, _, word = feature.removeprefix(_TAG_AND_WORD).partition(" ")
                self._after.setdefault(word, []).append(name)
        self._clear_cache()

    def tag(self, tokens: Sequence[str]) -> list[str]:
        """The Penn Treebank tag of each of a sentence's ``tokens``."""
        if len(self._rows) + len(tokens) > _CACHED_WORDS:
            self._clear_cache()
        rows = [self._row(token) for token in tokens]
        scores = self._scores([row.number for row in rows])
        previous, second = (self._tag_number[name] for name in _START)
        tags = []
        for row, votes in zip(rows, scores, strict=True):
            tag = row.tag
            if tag is None:
                votes = votes + self._history[previous, second]
                if previous in row.after:
                    votes = votes + row.after[previous]
                tag = int(votes.argmax())
            tags.append(self.names[tag])
            previous, second = tag, previous
        return tags

    def _scores(self, numbers: list[int]) -> Int[np.ndarray, "words tags"]:
        """The votes that depend on words alone."""
        padded = np.array([*self._start, *numbers, *self._end])
        end = len(numbers)
        votes = self._table[padded[2 : 2 + end], 0]
        for offset, shift in enumerate(_SHIFTS, 1):
            votes += self._table[padded[shift : shift + end], offset]
        return votes

    def _clear_cache(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._table = np.zeros((1024, _OFFSETS, len(self.names)), dtype=np.int32)
        self._start, self._end = ([self._add(name, name).number for name in names] for names in (_START, _END))

    def _row(self, token: str) -> _Row:
        return self._rows.get(token) or self._add(token, _normalized(token))

    def _add(self, token: str, word: str) -> _Row:
        number, votes = len(self._rows), self._votes
        if number == len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        self._table[number] = (
            votes("bias", f"i suffix {token[-3:]}", f"i pref1 {token[:1]}", f"i word {word}"),
            votes(f"i-1 word {word}", f"i-1 suffix {word[-3:]}"),
            votes(f"i-2 word {word}"),
            votes(f"i+1 word {word}", f"i+1 suffix {word[-3:]}"),
            votes(f"i+2 word {word}"),
        )
        after = {self._tag_number[name]: votes(f"{_TAG_AND_WORD}{name} {word}") for name in self._after.get(word, ())}
        only = self._tagdict.get(token)
        row = _Row(number, None if only is None else self._column[only], after)
        self._rows[token] = row
        return row

    def _votes(self, *features: str) -> Int[np.ndarray, " tags"]:
        rows = [self._feature[feature] for feature in features if feature in self._feature]
        return self._all_votes[rows].sum(axis=0, dtype=np.int32)


def _normalized(token: str) -> str:
    """The word that stands for a token in the features."""
    if "-" in token and token[0] != "-":
        return "!HYPHEN"
    if token.isdigit() and len(token) == 4:
        return "!YEAR"
    return "!DIGITS" if token[:1].isdigit() else token.lower()


@lru_cache(maxsize=1)
def tagger() -> Tagger:
    """The English tagger. Raises ``NltkDataError`` where NLTK's data is missing."""
    english = perceptron_tagger()
    return Tagger(english.model.weights, english.tagdict)
