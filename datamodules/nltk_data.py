"""NLTK's data: found before work starts, loaded once.

NLTK's package holds code only; the sentence splitter and the tagger read files that are fetched once. They are looked
for where NLTK looks: the folders of ``NLTK_DATA``, then ``~/nltk_data`` and the system's. NLTK itself is imported
here, inside the functions, because it takes seconds and only writing shards needs it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

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
            f"NLTK_DATA=FOLDER."
        )


@lru_cache(maxsize=1)
def sentence_tokenizer() -> PunktTokenizer:
    """NLTK's English Punkt model."""
    require_nltk_data()
    from nltk.tokenize.punkt import PunktTokenizer

    return PunktTokenizer("english")


@lru_cache(maxsize=1)
def tagger() -> PerceptronTagger:
    """NLTK's averaged perceptron tagger for English, its scores summed by numpy: the same tags, several times sooner.

    NLTK adds the weights of a word's features (a dozen, each voting for up to 45 tags) in a Python loop and takes the
    best score, the later name at a tie. Here the weights are the rows of a matrix.
    """
    require_nltk_data()
    from nltk.tag.perceptron import AveragedPerceptron, PerceptronTagger

    class MatrixPerceptron(AveragedPerceptron):
        def __init__(self, model: AveragedPerceptron) -> None:
            super().__init__(model.weights)
            self.classes = model.classes
            self.names = sorted(model.classes, reverse=True)  # argmax takes the first of equals
            column = {name: c for c, name in enumerate(self.names)}
            self.row = {feature: r for r, feature in enumerate(model.weights)}
            self.matrix = np.zeros((len(self.row), len(column)))
            for row, votes in enumerate(model.weights.values()):
                self.matrix[row, [column[name] for name in votes]] = list(votes.values())

        def predict(self, features: dict[str, int], return_conf: bool = False) -> tuple[str, float | None]:
            if return_conf:
                return super().predict(features, return_conf)
            rows = [self.row[name] for name in features if name in self.row]
            return self.names[int(self.matrix[rows].sum(axis=0).argmax())], None

    english = PerceptronTagger(lang="eng")
    english.model = MatrixPerceptron(english.model)
    return english
