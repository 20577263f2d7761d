"""Phrases by spaCy, as β-CLIP finds them: noun chunks, each verb with the preposition behind it, relations.

As in ``noun_phrases`` pronouns are left out, phrases that say nothing are marked, and a phrase is a verbatim piece of
its sentence. spaCy is an extra (``pip install 'grainclip[spacy]'``); its models are not on PyPI: each is
downloaded once by ``python -m spacy download``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from typing import Any

from datamodules.granularity.noun_phrases import PhraseSpan, find_relations, is_stop_phrase

_HEADS = ("NOUN", "PROPN", "NUM", "ADJ", "SYM", "X")  # parts of speech of a head: pronouns name no thing


@lru_cache(maxsize=1)
def pipeline(model: str) -> Any:
    """The pipeline called ``model``, a name or a folder.

    Raises:
        ModuleNotFoundError: spaCy is not installed.
        OSError: the model is not installed.
        ValueError: it has no parser.
    """
    try:
        spacy = import_module("spacy")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the extractor 'spacy' needs spaCy: pip install 'grainclip[spacy]'") from error
    try:
        loaded = spacy.load(model, exclude=["ner"])
    except OSError as error:
        raise OSError(
            f"spaCy has no model {model!r}: python -m spacy download {model}, or give a folder as --spacy_model"
        ) from error
    if not loaded("A dog.").has_annotation("DEP"):
        raise ValueError(f"spacy_model must have a parser, as en_core_web_sm has; {model!r} has {loaded.pipe_names}")
    return loaded


def sentence_starts(model: str, text: str) -> list[int]:
    """The starts of the parser's sentences."""
    return [sentence.start_char for sentence in pipeline(model)(text).sents]


def phrases(model: str, sentence: str) -> list[PhraseSpan]:
    """The phrases of ``sentence``, by start, then end."""
    document = pipeline(model)(sentence)
    relations = [PhraseSpan(start, end, "") for start, end in find_relations(sentence)]
    return sorted({*relations, *_noun_chunks(document), *_actions(document)})


def _noun_chunks(document: Any) -> Iterator[PhraseSpan]:
    for chunk in document.noun_chunks:
        words = [token.lower_ for token in chunk if not token.is_space]
        if chunk.root.pos_ in _HEADS:
            yield PhraseSpan(chunk.start_char, chunk.end_char, chunk.root.lemma_.lower(), is_stop_phrase(words))


def _actions(document: Any) -> Iterator[PhraseSpan]:
    for verb, preposition in pairwise(document):
        if verb.pos_ == "VERB" and preposition.pos_ == "ADP":
            yield PhraseSpan(verb.idx, preposition.idx + len(preposition), "")
