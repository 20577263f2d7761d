"""Location phrases, and sentences on two things: one is left of the other, is larger, shares an attribute."""

from __future__ import annotations

from random import Random

from datamodules.scenes.phrasing import Text, fill, joined, mention
from datamodules.scenes.words import ADJECTIVES, ATTRIBUTES, refer, references
from datamodules.scenes.world import GRID, SIZES, Scene

# for each cell: a preposition, the place, and the place's head
PLACES = (
    (("in", "the top left corner", "corner"), ("at", "the upper left", "left")),
    (("at", "the top centre", "centre"), ("in", "the middle of the top edge", "middle")),
    (("in", "the top right corner", "corner"), ("at", "the upper right", "right")),
    (("at", "the centre left", "left"), ("halfway down", "the left side", "side")),
    (("in", "the middle", "middle"), ("at", "the very centre", "centre")),
    (("at", "the centre right", "right"), ("halfway down", "the right side", "side")),
    (("in", "the bottom left corner", "corner"), ("at", "the lower left", "left")),
    (("at", "the bottom centre", "centre"), ("in", "the middle of the bottom edge", "middle")),
    (("in", "the bottom right corner", "corner"), ("at", "the lower right", "right")),
)
# where the first stands from the second, by (row, column) steps: words and their head
DIRECTIONS = {
    (0, -1): (("to the left of", "left"), ("left of", "left"), ("on the left side of", "side")),
    (0, 1): (("to the right of", "right"), ("right of", "right"), ("on the right side of", "side")),
    (-1, 0): (("above", "above"), ("higher up than", "high")),
    (1, 0): (("below", "below"), ("lower down than", "low")),
    (-1, -1): (("above and to the left of", "left"), ("up and left of", "left")),
    (-1, 1): (("above and to the right of", "right"), ("up and right of", "right")),
    (1, -1): (("below and to the left of", "left"), ("down and left of", "left")),
    (1, 1): (("below and to the right of", "right"), ("down and right of", "right")),
}
LARGER, SMALLER = (("larger than", "large"), ("bigger than", "big")), (("smaller than", "small"),)
SIZE_SHARE = 0.25  # of the relations between things of different size

POSITION_TEMPLATES = (
    "{x} is {how}.",
    "{x} sits {how}.",
    "{x} can be found {how}.",
    "{how} is {x}.",
    "{how} there is {x}.",
)
SIZE_TEMPLATES = ("{x} is {how}.", "{x} looks {how}.")
SHARED_TEMPLATES = ("{x} and {y} are both {word}.", "both {x} and {y} are {word}.", "{x} is {word}, and so is {y}.")
ONLY_TEMPLATES = ("{x} is the only {word} shape.", "only {x} is {word}.")


def location_phrase(cell: int, rng: Random) -> Text:
    """A phrase such as "in the top left corner"."""
    preposition, text, lemma = rng.choice(PLACES[cell])
    return joined((f"{preposition} ", mention(lemma, None, text)))


def relation_sentence(scene: Scene, rng: Random) -> Text:
    """A sentence that compares one thing's position or size with another's."""
    first, second = rng.sample(range(len(scene.things)), 2)
    x, y = refer(scene, first, rng), refer(scene, second, rng)
    larger = SIZES.index(scene.things[first].size) - SIZES.index(scene.things[second].size)
    if larger and rng.random() < SIZE_SHARE:
        words, lemma = rng.choice(LARGER if larger > 0 else SMALLER)
        templates = SIZE_TEMPLATES
    else:
        words, lemma = rng.choice(_directions(scene.cells[first], scene.cells[second], rng))
        templates = POSITION_TEMPLATES
    return fill(rng.choice(templates), x=x, how=mention(lemma, None, f"{words} ", y))


def _directions(first: int, second: int, rng: Random) -> tuple[tuple[str, str], ...]:
    """Words for the direction from one cell to another: both steps, or only the longer one where they differ."""
    (row, column), (other_row, other_column) = divmod(first, GRID), divmod(second, GRID)
    down, right = row - other_row, column - other_column
    step = (_sign(down), _sign(right))
    if abs(down) != abs(right) and rng.random() < 0.5:
        step = (step[0], 0) if abs(down) > abs(right) else (0, step[1])
    return DIRECTIONS[step]


def shared_sentence(scene: Scene, rng: Random) -> Text | None:
    """A sentence on a value that exactly two things share, or that one alone has; ``None`` where there is none.

    Its references do not name the attribute that it is about.
    """
    choices = []
    for attribute in ATTRIBUTES:
        for value in ADJECTIVES[attribute]:
            owners = [n for n, thing in enumerate(scene.things) if getattr(thing, attribute) == value]
            if 1 <= len(owners) <= 2 and all(references(scene, n, attribute) for n in owners):
                choices.append((attribute, value, owners))
    if not choices:
        return None
    attribute, value, owners = rng.choice(choices)
    phrases = [refer(scene, number, rng, without=attribute) for number in owners]
    word = rng.choice(ADJECTIVES[attribute][value])
    templates = ONLY_TEMPLATES if len(owners) == 1 else SHARED_TEMPLATES
    return fill(rng.choice(templates), x=phrases[0], y=phrases[-1], word=word)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
