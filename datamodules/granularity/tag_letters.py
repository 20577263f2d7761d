"""The words of a sentence, and a letter for each, for the regular expressions of ``noun_phrases``.

The index of a letter in the string is the index of its word in the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

TagWords: TypeAlias = Callable[[Sequence[str]], Sequence[str]]  # from a sentence's tokens to their Penn Treebank tags


class TaggedSentence(NamedTuple):
    """A sentence's words and punctuation marks: the characters [start, end), text, lower-case text, tag and letter of
    each.
    """

    spans: list[tuple[int, int]]
    texts: list[str]
    lower: list[str]
    tags: Sequence[str]
    letters: str


def tag_words(sentence: str, relations: Sequence[tuple[int, int]], tag: TagWords) -> TaggedSentence:
    """The words of ``sentence``; those inside ``relations``, character spans, have the letter r."""
    spans = [match.span() for match in _TOKEN.finditer(sentence)]
    texts = [sentence[start:end] for start, end in spans]
    tags = tag(_newswire_tokens(texts))
    letters = ""
    for (start, _), text, name in zip(spans, texts, tags, strict=True):
        if relations and any(first <= start < last for first, last in relations):
            letters += "r"
        else:
            letter, base_verb = _letter(text, name)
            letters += "V" if base_verb and letters[-1:] == "n" else letter
    return TaggedSentence(spans, texts, [text.lower() for text in texts], tags, letters)


_TOKEN = re.compile(
    r"""(?:Mr|Mrs|Ms|Dr|St|Mt|Jr|Sr|Prof|Capt|Lt|Sgt|Rev|Gov|Sen|Gen|Col|No)\.(?=\s)   # Mr. Smith, No. 7
      | (?:[A-Za-z]\.){2,} | [A-Z]\.(?=\s[A-Z])                                        # U.S., J. Smith
      | \d+(?:[.,:]\d+)*(?:-?\w+)*                                                     # 3.5, 10:45, 5-foot-tall
      | n['’]t\b | ['’](?:s|re|ve|ll|d|m)\b | \w+?(?=n['’]t\b)                         # is|n't, boar|'s
      | \w+(?:[-'’](?!(?:s|re|ve|ll|d|m)\b)\w+)*                                       # dark-oak, o'clock
      | \.{2,} | [^\w\s]""",
    re.VERBOSE,
)
# A article, D other determiner, J adjective (j compared), N noun (n plural, Q a colour's name too), V verb, G -ing,
# E -ed, R adverb, P preposition, r inside a relation, C number, S possessive, K and/or, "," comma, o anything else.
_LETTERS = {
    **dict.fromkeys(("DT", "PDT", "PRP$", "WP$"), "D"),
    **dict.fromkeys(("JJR", "JJS"), "j"),
    **dict.fromkeys(("NN", "NNP"), "N"),
    **dict.fromkeys(("NNS", "NNPS"), "n"),
    **dict.fromkeys(("VB", "VBP", "VBZ"), "V"),
    **dict.fromkeys(("VBD", "VBN"), "E"),
    **dict.fromkeys(("RB", "RBR", "RBS"), "R"),
    **dict.fromkeys(("IN", "TO", "RP"), "P"),
    **{"JJ": "J", "VBG": "G", "CD": "C", "POS": "S", "CC": "K"},
}
COLOURS = {
    *("white", "black", "red", "blue", "green", "yellow", "brown", "gray", "grey", "pink", "purple", "beige", "tan"),
    *("maroon", "teal", "turquoise"),
}
# Words that the tagger, trained on newspapers, often mistags in captions.
_LETTERS_OF_WORDS = {
    **dict.fromkeys(("standing", "sitting", "riding", "walking", "holding", "wearing", "laying", "lying"), "G"),
    **dict.fromkeys(("looking", "playing", "eating", "flying", "running", "leaning", "hanging", "posing"), "G"),
    **dict.fromkeys(("resting", "watching", "facing", "talking", "staring", "smiling", "jumping", "grazing"), "G"),
    **dict.fromkeys(("sits", "rides", "walks", "holds", "wears", "looks", "eats", "leans", "flies", "rests"), "V"),
    **dict.fromkeys(("smiles", "stares", "performs", "greets"), "V"),
    **dict.fromkeys(("someone", "somebody", "something", "anyone", "anything", "everyone", "everything"), "o"),
    **dict.fromkeys(("no-one", "nobody", "nothing"), "o"),
    **dict.fromkeys(("upward", "upwards", "downward", "downwards", "inward", "inwards", "outward", "outwards"), "R"),
    **dict.fromkeys(("forward", "forwards", "backward", "backwards", "below", "above", "behind", "next"), "R"),
    **dict.fromkeys(COLOURS, "J"),
    **dict.fromkeys(("orange", "gold", "silver", "cream", "violet", "navy"), "Q"),  # nouns too
}
_BASE_VERBS = {"graze", "lay", "lie", "play", "pose", "rest", "ride", "run", "sit", "stand", "walk", "wait", "watch"}
_ARTICLES = {"a", "an", "the"}


@lru_cache(maxsize=50_000)
def _letter(text: str, tag: str) -> tuple[str, bool]:
    """A word's letter, and whether it is a verb where it follows a plural noun."""
    word, letter = text.lower(), _LETTERS.get(tag, "o")
    if not any(character.isalnum() for character in text):
        return "," if text == "," else "o", False
    if word in _ARTICLES:
        return "A", False
    if word == "sheep":
        return "n", False
    if letter not in "Nn":
        return letter, False
    return _LETTERS_OF_WORDS.get(word, letter), word in _BASE_VERBS


def _newswire_tokens(tokens: list[str]) -> list[str]:
    """The tokens as in the tagger's training text: opening and closing quotes, no capital at the sentence's start."""
    if all(token.upper() == token for token in tokens):
        tokens = [token.lower() for token in tokens]
    newswire, in_quotes = [], False
    for token in tokens:
        if token == '"':
            token = "''" if in_quotes else "``"
            in_quotes = not in_quotes
        newswire.append(token)
    if len(newswire) > 1 and newswire[0].istitle() and not newswire[1][0].isupper():
        newswire[0] = newswire[0].lower()
    return newswire
