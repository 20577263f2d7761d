"""NLTK's data: found before work starts, loaded once.

NLTK's package holds code only; the sentence splitter and the tagger read files that are fetched once. They are looked
for where NLTK looks: the folders of ``NLTK_DATA``, then ``~/nltk_data`` and the system's. NLTK itself is imported
here, inside the functions, because it takes seconds and only writing shards needs it.
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
    """The names of the NLTK resources that sentences and phrases need and that are not found."""
    import nltk

    missing = []
    for name, path in RESOURCES.items():
        try:
            nltk.data.find(path)
        except LookupError:
            missing.append(name)
    return missing


def require_nltk_data() -> None:
    """Raise ``NltkDataError`` unless all that sentences and phrases need is there. Call it before any long work."""
    missing = missing_nltk_data()
    if missing:
        raise NltkDataError(
            f"NLTK's data is missing: {', '.join(missing)}. Sentences and phrases are cut with it when shards are "
            f"written (training needs none of it). Get it with\n"
            f"    python -m nltk.downloader {' '.join(RESOURCES)}\n"
            f"or, for a machine without network, run that elsewhere with `-d FOLDER`, copy FOLDER, and set "
            f"NLTK_DATA=FOLDER. `--extractor rules` needs no data at all: its phrases agree with NLTK's to about 92 %."
        )


@lru_cache(maxsize=1)
def sentence_tokenizer() -> PunktTokenizer:
    """NLTK's English Punkt model."""
    require_nltk_data()
    from nltk.tokenize.punkt import PunktTokenizer

    return PunktTokenizer("english")


def perceptron_tagger() -> PerceptronTagger:
    """NLTK's averaged perceptron tagger for English, as it is."""
    require_nltk_data()
    from nltk.tag.perceptron import PerceptronTagger

    return PerceptronTagger(lang="eng")
