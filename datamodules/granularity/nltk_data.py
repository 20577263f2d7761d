"""NLTK's data: checked before work starts, loaded once.

NLTK's package holds code only; the sentence splitter and the tagger read files that are downloaded once. They are
searched where NLTK searches: the folders of ``NLTK_DATA``, then ``~/nltk_data`` and the system's. NLTK itself is
imported inside the functions, because it takes seconds and only writing shards needs it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.tag.perceptron import PerceptronTagger
    from nltk.tokenize.punkt import PunktTokenizer

RESOURCES = {
    "punkt_tab": "tokenizers/punkt_tab/english/",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng/",
}


class NltkDataError(LookupError):
    """NLTK's data is missing; the message says which, and how to get it."""


def missing_nltk_data() -> list[str]:
    """The names of the missing NLTK resources that sentences and phrases need."""
    import nltk

    missing = []
    for name, path in RESOURCES.items():
        try:
            nltk.data.find(path)
        except LookupError:
            missing.append(name)
    return missing


def require_nltk_data() -> None:
    """Raise ``NltkDataError`` where a resource is missing. Call it before any long work."""
    if missing_nltk_data():
        raise NltkDataError(
            f"NLTK's data is missing: python -m nltk.downloader {' '.join(RESOURCES)} (or elsewhere with -d FOLDER, "
            "and NLTK_DATA=FOLDER here); --extractor rules needs none"
        )


@lru_cache(maxsize=1)
def sentence_tokenizer() -> PunktTokenizer:
    """NLTK's English Punkt model."""
    require_nltk_data()
    from nltk.tokenize.punkt import PunktTokenizer

    return PunktTokenizer("english")


def perceptron_tagger() -> PerceptronTagger:
    """NLTK's averaged perceptron tagger for English."""
    require_nltk_data()
    from nltk.tag.perceptron import PerceptronTagger

    return PerceptronTagger(lang="eng")
