"""Find the phrases of a sentence: what β-CLIP takes from spaCy, from NLTK's tags instead.

Words are tagged by NLTK's perceptron; every tag becomes one letter, and a regular expression over the letters finds
the noun phrases: an order of magnitude quicker than NLTK's ``RegexpParser`` with the same grammar, since a letter's
place in the string is its word's place in the sentence. As in β-CLIP there are three kinds: noun phrases with their
determiner, relations ("to the left of"), and actions, a verb with its preposition ("attached to").

Where we differ from β-CLIP: a quantity belongs to its noun ("a group of people" is one phrase, its head "person"); an
action takes a whole relation ("sitting on top of"); pronouns are no phrases; phrases that say nothing about the
picture ("the image", "the left side") are dropped, because they stand in many captions of a batch and would be
negatives of themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from datamodules.nltk_data import tagger
from datamodules.nouns import singular


class Found(NamedTuple):
    """A phrase: characters ``[start, end)`` of its sentence, and its head's lemma ("" where it names no thing)."""

    start: int
    end: int
    lemma: str


class _Word(NamedTuple):
    """A word or mark of a sentence: its characters and its letter (see ``_LETTERS``)."""

    start: int
    end: int
    text: str
    letter: str
    name: bool  # a proper noun in the singular


def phrases_of(sentence: str) -> list[Found]:
    """All phrases of ``sentence``, by start, then end; they may overlap (an action and the relation in it)."""
    relations = [match.span() for match in _RELATION.finditer(sentence)]
    words = _words(sentence, relations)
    letters = "".join(word.letter for word in words)
    found = [Found(start, end, "") for start, end in relations]
    return sorted([*found, *_actions(words, letters, relations), *_noun_phrases(words, letters)])


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
_COLOURS = {
    *("white", "black", "red", "blue", "green", "yellow", "brown", "gray", "grey", "pink", "purple", "beige", "tan"),
    *("maroon", "teal", "turquoise"),
}
# What the tagger, trained on newspapers, often takes for something else in captions.
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
    **dict.fromkeys(_COLOURS, "J"),
    **dict.fromkeys(("orange", "gold", "silver", "cream", "violet", "navy"), "Q"),  # nouns too
}
_BASE_VERBS = {"graze", "lay", "lie", "play", "pose", "rest", "ride", "run", "sit", "stand", "walk", "wait", "watch"}
_ARTICLES = {"a", "an", "the"}


def _words(sentence: str, relations: list[tuple[int, int]]) -> list[_Word]:
    spans = [(*match.span(), match.group()) for match in _TOKEN.finditer(sentence)]
    tags = tagger().tag(_as_newswire([text for _, _, text in spans]))
    words: list[_Word] = []
    for (start, end, text), (_, tag) in zip(spans, tags, strict=True):
        in_relation = any(r0 <= start < r1 for r0, r1 in relations)
        letter = "r" if in_relation else _letter(text, tag, after_plural=bool(words) and words[-1].letter == "n")
        words.append(_Word(start, end, text, letter, tag == "NNP"))
    return words


def _letter(text: str, tag: str, *, after_plural: bool) -> str:
    word, letter = text.lower(), _LETTERS.get(tag, "o")
    if not any(character.isalnum() for character in text):
        return "," if text == "," else "o"
    if word in _ARTICLES:
        return "A"
    if word == "sheep":
        return "n"
    if letter not in "Nn":
        return letter
    return "V" if after_plural and word in _BASE_VERBS else _LETTERS_OF_WORDS.get(word, letter)


def _as_newswire(tokens: list[str]) -> list[str]:
    """The tokens as the tagger's training text has them: quotes that open and close, no capital for being first."""
    if all(token.upper() == token for token in tokens):
        tokens = [token.lower() for token in tokens]
    plain, inside = [], False
    for token in tokens:
        if token == '"':
            token = "''" if inside else "``"
            inside = not inside
        plain.append(token)
    if len(plain) > 1 and plain[0].istitle() and not plain[1][0].isupper():
        plain[0] = plain[0].lower()
    return plain


_ADJECTIVE = "(?:R{0,2}[JjGE]|Q(?=,?KR{0,2}[JQ]))"
_MODIFIER = f"(?:{_ADJECTIVE}|C)"
_MORE = f"(?:(?:,?K)?{_MODIFIER}|,{_ADJECTIVE})*"  # black and white; red, white and blue
_NOUN = "[NnQ]"
_NOUNS = f"(?:{_NOUN}+(?:(?<=N)J+{_NOUN}+)?)"  # two lane gray road: no singular ends a phrase before an adjective
_NOUN_PHRASE = re.compile(
    f"(?:[AD]{{1,2}}(?:{_MODIFIER}{_MORE})?{_NOUNS}|(?:[JjCQ]{_MORE})?{_NOUN}+)(?:S(?:{_MODIFIER}{_MORE})?{_NOUN}+)*"
    f"|A(?:(?:{_MODIFIER}{_MORE})?[JV]|E)(?![NnQJjE])"  # an article needs a noun: "An elephant/JJ", "a moped/VBD"
)
_QUANTITIES = {
    *("group", "lot", "couple", "bunch", "piece", "pair", "number", "herd", "flock", "variety", "row", "stack"),
    *("pile", "set", "collection", "crowd", "slice", "kind", "type", "dozen", "array", "series", "plenty", "cluster"),
    *("line", "assortment", "team", "bit", "sort", "pack"),
}
# A noun phrase of nothing but these words says nothing about what the picture shows.
_EMPTY = _COLOURS | {
    *("a", "an", "the", "this", "that", "these", "those", "its", "his", "her", "their", "my", "our", "your", "whose"),
    *("all", "both", "each", "every", "either", "some", "any", "no", "other", "others", "another", "same", "such"),
    *("image", "images", "picture", "pictures", "photo", "photos", "photograph", "photographs", "frame", "shot"),
    *("scene", "view", "foreground", "background", "left", "right", "top", "bottom", "front", "back", "middle"),
    *("center", "centre", "side", "sides", "rear", "inside", "outside", "upper", "lower", "far", "near", "left-hand"),
    *("right-hand", "hand-side", "corner", "edge", "end", "part", "area", "portion", "section", "half", "rest"),
    *("close", "closeup", "close-up", "up", "way", "lot", "bit", "kind", "type", "sort", "number", "couple"),
    *("outdoor", "indoor", "outdoors", "indoors", "medium", "distance", "variety", "one", "ones", "and", "or"),
    *("of", ","),
    *("first", "second", "third", "next", "last", "very", "entire", "whole"),
}


def _noun_phrases(words: list[_Word], letters: str) -> Iterator[Found]:
    spans = [match.span() for match in _NOUN_PHRASE.finditer(letters)]
    while spans:
        first, end = spans.pop(0)
        while spans and spans[0][0] == end + 1 and _is_quantity(words[first:end]) and words[end].text.lower() == "of":
            _, end = spans.pop(0)
        says_something = any(word.text.lower() not in _EMPTY for word in words[first:end])
        if says_something and words[end - 1].text.lower() not in _COLOURS:
            yield Found(words[first].start, words[end - 1].end, _lemma(words[end - 1]))


def _is_quantity(phrase: list[_Word]) -> bool:
    """A group of, a large number of; but not a parking lot of."""
    return _lemma(phrase[-1]) in _QUANTITIES and (len(phrase) < 2 or phrase[-2].letter not in "Nn")


def _lemma(head: _Word) -> str:
    acronym = len(head.text) > 2 and head.text[-1] == "s" and head.text[:-1].isupper()  # TVs
    return head.text.lower() if head.name and not acronym else singular(head.text)


_RELATION = re.compile(
    r"""\b(?:
        (?:next|close|adjacent|opposite)\s+to | (?:across|away|far)\s+from | (?:left|right|ahead)\s+of | in\s+between
      | from\s+(?:above|below|behind|under|underneath|beneath|inside|outside|within) | side\s+by\s+side
      | (?:to|on|at|in|from|towards?|along|near|by)\s+
        (?:(?:the|this|that|either|each|both|one|all|opposite)\s+)?
        (?:(?:far|upper|lower|very|bottom|top|left|right|front|back|rear|outer|inner|other|opposite|hand
            |left-hand|right-hand)\s+)*
        (?:left|right|top|bottom|front|back|middle|cent(?:er|re)|rear|inside|outside|sides?|corners?|edges?|ends?)
        (?:\s+of
          |(?=\s*(?:[^\w\s]|$)|\s+(?:is|are|was|were|and|there|an?|the|that|which|in|on|at|with|to|from|by)\b))
    )(?!\w)""",
    re.VERBOSE | re.IGNORECASE,
)
_PREPOSITIONS = {
    *("on", "in", "at", "to", "from", "with", "by", "of", "for", "into", "onto", "over", "under", "above", "below"),
    *("behind", "beside", "between", "through", "across", "along", "around", "against", "near", "toward", "towards"),
    *("up", "down", "off", "out", "inside", "outside", "within", "underneath", "beneath", "atop", "upon", "past"),
    *("about", "among", "amid", "throughout", "alongside"),
}
_AUXILIARIES = {
    "be",
    "is",
    "are",
    "was",
    "were",
    "am",
    "been",
    "being",
    "has",
    "have",
    "had",
    "having",
    "do",
    "does",
    "did",
}
_ACTION = re.compile("[VGE](?:r|P{1,2})")


def _actions(words: list[_Word], letters: str, relations: list[tuple[int, int]]) -> Iterator[Found]:
    ends = dict(relations)
    for match in _ACTION.finditer(letters):
        verb, *rest = words[match.start() : match.end()]
        if verb.text.lower() in _AUXILIARIES or verb.text[0] in "'’":
            continue
        if rest[0].letter == "r":
            if rest[0].start in ends:
                yield Found(verb.start, ends[rest[0].start], "")
            continue
        rest = list(takewhile(lambda word: word.text.lower() in _PREPOSITIONS, rest))
        infinitive = rest and rest[-1].text.lower() == "to" and letters[match.start() + 1 + len(rest) :][:1] == "V"
        if infinitive:
            rest.pop()
        if rest:
            yield Found(verb.start, rest[-1].end, "")
