"""Extractors of sentences and phrases: NLTK, rules that need no data, or spaCy.

NLTK's Punkt and tagger are the default. Where their data is not available, rules take their place. spaCy is slower,
and its model better: β-CLIP trains on its noun chunks. Extractors can be pickled for other processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from datamodules.granularity import rule_tagger, spacy_phrases
from datamodules.granularity.nltk_data import require_nltk_data, sentence_tokenizer
from datamodules.granularity.noun_phrases import PhraseSpan, find_phrases
from datamodules.granularity.tagger import tagger

ExtractorName: TypeAlias = Literal["nltk", "rules", "spacy"]


class Extractor(Protocol):
    """Finds the sentences of a text and the phrases of a sentence."""

    def require(self) -> None:
        """Raise ``LookupError`` or ``ImportError``, with the remedy, where data or packages are missing."""
        ...

    def sentence_starts(self, text: str) -> Iterable[int]:
        """Candidate starts of sentences of ``text``; ``cutting`` corrects them."""
        ...

    def phrases(self, sentence: str) -> list[PhraseSpan]:
        """The phrases of ``sentence``, by start, then end."""
        ...


@dataclass(frozen=True)
class NltkExtractor:
    """Punkt's sentences, the perceptron's tags, our chunker."""

    def require(self) -> None:
        """Raise ``NltkDataError`` where NLTK's data is missing."""
        require_nltk_data()

    def sentence_starts(self, text: str) -> Iterable[int]:
        """The starts of Punkt's sentences."""
        return (start for start, _ in sentence_tokenizer().span_tokenize(text))

    def phrases(self, sentence: str) -> list[PhraseSpan]:
        """The phrases by the perceptron's tags."""
        return find_phrases(sentence, tagger().tag)


@dataclass(frozen=True)
class RuleExtractor:
    """Lists of words and endings, our chunker; no data files."""

    def require(self) -> None:
        """Do nothing: it needs no data."""

    def sentence_starts(self, text: str) -> Iterable[int]:
        """The starts after full stops."""
        return rule_tagger.sentence_starts(text)

    def phrases(self, sentence: str) -> list[PhraseSpan]:
        """The phrases by the rules' tags."""
        return find_phrases(sentence, rule_tagger.tag_by_rules)


@dataclass(frozen=True)
class SpacyExtractor:
    """A spaCy pipeline with a parser, such as en_core_web_sm."""

    model: str = "en_core_web_sm"

    def require(self) -> None:
        """Raise ``ModuleNotFoundError`` without spaCy, ``OSError`` without the model, ``ValueError`` without parser."""
        spacy_phrases.pipeline(self.model)

    def sentence_starts(self, text: str) -> Iterable[int]:
        """The starts of the parser's sentences."""
        return spacy_phrases.sentence_starts(self.model, text)

    def phrases(self, sentence: str) -> list[PhraseSpan]:
        """Noun chunks, verbs with their preposition, relations."""
        return spacy_phrases.phrases(self.model, sentence)


NLTK = NltkExtractor()


def make_extractor(name: ExtractorName, spacy_model: str) -> Extractor:
    """The extractor called ``name``. Raises ``ValueError`` for an unknown name."""
    if name == "nltk":
        return NLTK
    if name == "rules":
        return RuleExtractor()
    if name == "spacy":
        return SpacyExtractor(spacy_model)
    raise ValueError(f"extractor must be 'nltk', 'rules' or 'spacy', got {name!r}")
