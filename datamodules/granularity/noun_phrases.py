"""Find the phrases of a sentence from part-of-speech tags, where β-CLIP uses spaCy's parser.

Every word's tag becomes one letter, and a regular expression over the letters finds the noun phrases, ten times as
fast as NLTK's ``RegexpParser`` with the same grammar. As in β-CLIP there are three kinds: noun phrases
with their determiner, relations ("to the left of"), and actions, a verb with its preposition ("attached to").

Unlike in β-CLIP, a quantity belongs to its noun ("a group of people" is one phrase, its head "person"); an action takes
a whole relation ("sitting on top of"); pronouns are no phrases; phrases that say nothing about the image ("the image",
"the left side") are marked, because they stand in many captions of a batch and would be negatives of themselves:
training leaves them out by default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from datamodules.granularity.lemmatizer import singular
from datamodules.granularity.tag_letters import COLOURS, TaggedSentence, TagWords, tag_words


class PhraseSpan(NamedTuple):
    """A phrase: characters ``[start, end)`` of its sentence, and its head's lemma ("" where it names no thing).

    ``stop``: it says nothing of what the image shows.
    """

    start: int
    end: int
    lemma: str
    stop: bool = False


def find_phrases(sentence: str, tag: TagWords) -> list[PhraseSpan]:
    """All phrases of ``sentence``, by start, then end; they may overlap (an action and the relation in it).

    ``tag`` gives the Penn Treebank tags of tokens.
    """
    relations = find_relations(sentence)
    words = tag_words(sentence, relations, tag)
    phrases = [PhraseSpan(start, end, "") for start, end in relations]
    return sorted([*phrases, *_actions(words, dict(relations)), *_noun_phrases(words)])


def find_relations(sentence: str) -> list[tuple[int, int]]:
    """The character spans [start, end) of relations: "next to", "on the left of"."""
    return [match.span() for match in _RELATION.finditer(sentence)]


def is_stop_phrase(words: Sequence[str]) -> bool:
    """True if a noun phrase of these words, in lower case, says nothing about the image's content: "the left side"."""
    return words[-1] in COLOURS or STOP_WORDS.issuperset(words)


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
# A noun phrase of nothing but these words says nothing about what the image shows.
STOP_WORDS = COLOURS | {
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


def _noun_phrases(words: TaggedSentence) -> Iterator[PhraseSpan]:
    last = (0, 0)
    for span in [*_chunks(words.letters), (-1, 0)]:
        first, end = last
        if end and span[0] == end + 1 and words.lower[end] == "of" and _is_quantity(words, first, end):
            last = first, span[1]
            continue
        if end:
            stop = is_stop_phrase(words.lower[first:end])
            yield PhraseSpan(words.spans[first][0], words.spans[end - 1][1], _lemma(words, end - 1), stop)
        last = span


def _chunks(letters: str) -> list[tuple[int, int]]:
    """The noun phrases as [first, end) words."""
    return [match.span() for match in _NOUN_PHRASE.finditer(letters)]


def _is_quantity(words: TaggedSentence, first: int, end: int) -> bool:
    """True for "a group of", "a large number of", but not for "a parking lot of"."""
    return _lemma(words, end - 1) in _QUANTITIES and (end - first < 2 or words.letters[end - 2] not in "Nn")


def _lemma(words: TaggedSentence, head: int) -> str:
    text = words.texts[head]
    acronym = len(text) > 2 and text[-1] == "s" and text[:-1].isupper()  # TVs
    return words.lower[head] if words.tags[head] == "NNP" and not acronym else singular(text)


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
    *("be", "is", "are", "was", "were", "am", "been", "being", "has", "have", "had", "having", "do", "does", "did"),
}
_ACTION = re.compile("[VGE](?:r|P{1,2})")


def _actions(words: TaggedSentence, relations: Mapping[int, int]) -> Iterator[PhraseSpan]:
    """Verbs with their preposition or relation; ``relations`` maps the start of each relation to its end."""
    for match in _ACTION.finditer(words.letters):
        verb, end = match.span()
        start = words.spans[verb][0]
        if words.lower[verb] in _AUXILIARIES or words.texts[verb][0] in "'’":
            continue
        if words.letters[verb + 1] == "r":
            if words.spans[verb + 1][0] in relations:
                yield PhraseSpan(start, relations[words.spans[verb + 1][0]], "")
            continue
        prepositions = list(takewhile(_PREPOSITIONS.__contains__, words.lower[verb + 1 : end]))
        infinitive = (
            prepositions and prepositions[-1] == "to" and words.letters[verb + 1 + len(prepositions) :][:1] == "V"
        )
        if infinitive:
            prepositions.pop()
        if prepositions:
            yield PhraseSpan(start, words.spans[verb + len(prepositions)][1], "")
