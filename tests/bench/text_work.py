"""The benchmark of cutting captions into grains: NLTK's own way, with its ``RegexpParser``, beside ours."""

from __future__ import annotations

from collections.abc import Callable

CAPTIONS = 200
SHAREGPT4V = 1_242_828  # captions
GRAMMAR = r"NP: {<DT|PDT|PRP\$|WP\$>*(<RB.*>*<JJ.*|VBG|VBN|CD><CC|,>?)*<NN.*>+(<POS><JJ.*>*<NN.*>+)*}"


def grains(side: str) -> Callable[[], None]:
    """Sentences and phrases with offsets of ``CAPTIONS`` captions; old: noun phrases without lemmas or relations."""
    from tests.bench.texts import captions

    texts = [grain.caption for grain in captions(CAPTIONS)[1]]
    cut = _by_nltk() if side == "old" else _ours
    cut(texts[0])  # what is loaded once

    def work() -> None:
        assert sum(map(cut, texts)) > 10 * len(texts)

    return work


def core_hours(captions_per_second: float) -> float:
    """Core hours for ShareGPT4V's captions."""
    return SHAREGPT4V / captions_per_second / 3600


def _ours(caption: str) -> int:
    from datamodules.granularity.cutting import extract_phrases, split_sentences

    return len(extract_phrases(caption, split_sentences(caption)))


def _by_nltk() -> Callable[[str], int]:
    from nltk import RegexpParser, Tree
    from nltk.tag.perceptron import PerceptronTagger
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktTokenizer

    sentences, words, tags, parser = PunktTokenizer(), NLTKWordTokenizer(), PerceptronTagger(), RegexpParser(GRAMMAR)

    def cut(caption: str) -> int:
        found = []
        for first, last in sentences.span_tokenize(caption):
            sentence = caption[first:last]
            spans = list(words.span_tokenize(sentence))
            tagged = tags.tag([sentence[start:end] for start, end in spans])
            numbered = [(str(number), tag) for number, (_, tag) in enumerate(tagged)]
            chunks = [t.leaves() for t in parser.parse(numbered) if isinstance(t, Tree)] if numbered else []
            found += [(first + spans[int(c[0][0])][0], first + spans[int(c[-1][0])][1]) for c in chunks]
        return len({caption[start:end].lower() for start, end in found})

    return cut
