"""The words for things: synonyms, noun phrases, and references to a single thing of a scene.

The plain word of a value is the first in its row and is drawn more often than each synonym. No word stands for two
values of an attribute, so descriptions are unambiguous.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import TypeVar

from datamodules.scenes.phrasing import Text, mention
from datamodules.scenes.world import Scene, Thing

T = TypeVar("T")

NOUNS = {
    "circle": ("circle", "disc"),
    "square": ("square",),
    "triangle": ("triangle",),
    "diamond": ("diamond", "rhombus"),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "crescent": ("crescent", "moon"),
    "arrow": ("arrow",),
    "hexagon": ("hexagon",),
    "hourglass": ("hourglass",),
}
ADJECTIVES = {
    "colour": {
        "red": ("red", "crimson", "scarlet"),
        "orange": ("orange", "tangerine"),
        "yellow": ("yellow", "lemon"),
        "green": ("green", "emerald"),
        "turquoise": ("turquoise", "teal", "cyan"),
        "blue": ("blue", "cobalt"),
        "purple": ("purple", "violet"),
        "pink": ("pink", "rose"),
        "brown": ("brown", "chestnut"),
        "black": ("black", "ebony"),
        "white": ("white", "ivory"),
    },
    "size": {
        "small": ("small", "little", "tiny"),
        "medium": ("medium", "mid-sized"),
        "large": ("large", "big"),
    },
    "texture": {
        "solid": ("solid", "plain"),
        "striped": ("striped", "stripy"),
        "dotted": ("dotted", "spotted"),
        "checkered": ("checkered", "checked"),
        "faded": ("faded", "shaded"),
        "split": ("split", "halved"),
    },
}
TEXTURE_NOUNS = {  # what a thing of this texture has, and the head's base form
    "solid": (("an even fill", "fill"), ("a uniform surface", "surface")),
    "striped": (("stripes", "stripe"), ("a striped pattern", "pattern")),
    "dotted": (("dots", "dot"), ("spots", "spot")),
    "checkered": (("checks", "check"), ("a checkered pattern", "pattern")),
    "faded": (("a soft gradient", "gradient"), ("fading shades", "shade")),
    "split": (("two halves", "half"), ("two tones", "tone")),
}
SHORTEST = 4  # references are drawn from this many of the shortest
PLAIN_WEIGHT = 3  # the plain word against 1 for each synonym

ATTRIBUTES = ("colour", "size", "texture")
# the order of the adjectives, and the attribute that follows the noun instead
FORMS = (
    (("size", "colour", "texture"), ""),
    (("size", "texture", "colour"), ""),
    (("texture", "size", "colour"), ""),
    (("size", "colour"), "texture"),
    (("size", "texture"), "colour"),
    (("colour", "texture"), "size"),
    (("texture", "colour"), "size"),
)
# what a reference may name beside the noun, short ones first
SUBSETS: tuple[tuple[str, ...], ...] = (
    *((), ("colour",), ("texture",), ("size",)),
    *(("colour", "size"), ("colour", "texture"), ("size", "texture"), ATTRIBUTES),
)


class Wording:
    """A wording of descriptions: one order of attributes, and one word for each value.

    Descriptions of several things in one wording differ only where the things do.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.order, self.after = rng.choice(FORMS)
        self._chosen: dict[str, int] = {}

    def pick(self, value: str, words: Sequence[T]) -> T:
        """The word for ``value`` among ``words``, most often the first; the same in every call."""
        if value not in self._chosen:
            lot = int(self.rng.random() * (PLAIN_WEIGHT + len(words) - 1))
            self._chosen[value] = max(0, lot - PLAIN_WEIGHT + 1)
        return words[self._chosen[value]]

    def noun(self, thing: Thing) -> str:
        """The noun for ``thing``."""
        return self.pick(thing.shape, NOUNS[thing.shape])

    def adjective(self, thing: Thing, attribute: str) -> str:
        """The word for one of its attributes."""
        value = getattr(thing, attribute)
        return self.pick(value, ADJECTIVES[attribute][value])

    def texture(self, thing: Thing, number: int | None) -> Text:
        """The texture as something that the thing has: "a striped pattern"."""
        text, lemma = self.pick(f"{thing.texture} noun", TEXTURE_NOUNS[thing.texture])
        return mention(lemma, number, text)


def noun_phrase(
    thing: Thing, number: int | None, attributes: Collection[str], wording: Wording, determiner: str = "a"
) -> Text:
    """A phrase such as "a small striped circle in red" that names the given attributes and the shape.

    ``determiner`` is "a" (or "an", as the next word wants it) or any word, such as "the".
    """
    noun = wording.noun(thing)
    words = [wording.adjective(thing, a) for a in wording.order if a in attributes]
    words.append(noun)
    start = f"{article(words[0]) if determiner == 'a' else determiner} {' '.join(words)}"
    if wording.after not in attributes:
        return mention(noun, number, start)
    if wording.after == "texture":
        return mention(noun, number, start, " with ", wording.texture(thing, number))
    if wording.after == "colour":
        return mention(noun, number, f"{start} in {wording.adjective(thing, 'colour')}")
    return mention(noun, number, f"{start} of {thing.size} size")


def references(scene: Scene, number: int, without: str = "") -> list[tuple[str, ...]]:
    """Sets of attributes that, with its shape, fit this thing alone in its scene; the smallest sets first.

    ``without`` is an attribute not to be used; there may then be no set.
    """
    thing = scene.things[number]
    subsets = [subset for subset in SUBSETS if without not in subset]
    for rival in scene.things:
        if rival.shape == thing.shape and rival is not thing:
            shared = {a for a in ATTRIBUTES if getattr(rival, a) == getattr(thing, a)}
            subsets = [subset for subset in subsets if not shared.issuperset(subset)]
    return subsets


def refer(scene: Scene, number: int, rng: Random, determiner: str = "the", without: str = "") -> Text:
    """A short phrase that is true of one thing of the scene alone, such as "the blue star"."""
    subset = rng.choice(references(scene, number, without)[:SHORTEST])
    return noun_phrase(scene.things[number], number, subset, Wording(rng), determiner)


def article(word: str) -> str:
    """The indefinite article before a word."""
    return "an" if word[0] in "aeio" or word == "hourglass" else "a"
