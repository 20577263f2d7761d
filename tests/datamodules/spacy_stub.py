"""A spaCy component in a parser's place: it knows the words of one test."""

from __future__ import annotations

from spacy.language import Language
from spacy.tokens import Doc

parse = "grainclip_stub_parser"
TAGS = {
    **dict.fromkeys(("a", "the"), ("DET", "det")),
    **{"big": ("ADJ", "amod"), "it": ("PRON", "nsubj"), "sits": ("VERB", "ROOT"), "barks": ("VERB", "ROOT")},
    **{"dog": ("NOUN", "nsubj"), "left": ("NOUN", "pobj"), "mat": ("NOUN", "pobj")},
    **dict.fromkeys(("on", "of"), ("ADP", "prep")),
}


@Language.component(parse)
def _parse(document: Doc) -> Doc:
    """Determiners and adjectives hang on the next noun, everything else on its sentence's verb or first word."""
    words = [token.lower_ for token in document]
    tags = [TAGS.get(word, ("PUNCT", "punct")) for word in words]
    heads: list[int] = []
    start = 0
    while start < len(words):
        end = words.index(".", start) + 1 if "." in words[start:] else len(words)
        root = next((i for i in range(start, end) if tags[i][1] == "ROOT"), start)
        for i in range(start, end):
            nouns = [j for j in range(i + 1, end) if tags[j][0] == "NOUN"]
            heads.append(nouns[0] if tags[i][1] in ("det", "amod") and nouns else root)
        start = end
    return Doc(
        document.vocab,
        words=[token.text for token in document],
        spaces=[bool(token.whitespace_) for token in document],
        pos=[pos for pos, _ in tags],
        deps=["ROOT" if heads[i] == i else dep for i, (_, dep) in enumerate(tags)],
        heads=heads,
        lemmas=words,
    )
