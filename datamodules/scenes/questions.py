"""Multiple-choice questions about a thing's box, in FG-OVD's form: one right description and ten wrong ones.

The levels are FG-OVD's (Bianchi et al., "The devil is in the fine-grained details", CVPR 2024): a wrong description
keeps the noun and differs in one attribute (hard), two (medium) or three (easy); a trivial one describes a thing of
another scene of the split that differs in the noun and in every attribute. Within a question all texts have one form
and one word for each value, so nothing but the attributes tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from random import Random

from datamodules.scenes.words import ATTRIBUTES, Wording, noun_phrase
from datamodules.scenes.world import VALUES, Split, Thing, draw_scene

LEVELS = {"hard": 1, "medium": 2, "easy": 3}  # attributes that differ; the shape stays
TRIVIAL = "trivial"
WRONG = 10
POOL = 512  # trivial wrong descriptions are of things in this many first scenes of the split


def questions(thing: Thing, split: Split, seed: int, rng: Random) -> Iterator[tuple[str, tuple[str, ...]]]:
    """For each level its name and 11 texts, the right one first."""
    wording = Wording(rng)
    neighbours = _neighbours(thing)
    for level, differing in LEVELS.items():
        yield level, _texts(thing, rng.sample(neighbours[differing], WRONG), wording)
    yield TRIVIAL, _texts(thing, _unlike_things(thing, split, seed, rng), wording)


def difference(a: Thing, b: Thing) -> int:
    """The number of attributes, of shape, colour, size and texture, in which two things differ."""
    return sum([x != y for x, y in zip(a, b, strict=True)])


def _texts(right: Thing, wrong: Sequence[Thing], wording: Wording) -> tuple[str, ...]:
    return tuple(noun_phrase(thing, None, ATTRIBUTES, wording).text for thing in (right, *wrong))


def _neighbours(thing: Thing) -> list[list[Thing]]:
    """All things of the same shape, by the number of attributes in which they differ from ``thing``."""
    neighbours: list[list[Thing]] = [[] for _ in range(len(ATTRIBUTES) + 1)]
    for values in product(*(VALUES[a] for a in ATTRIBUTES)):
        other = Thing(thing.shape, *values)
        neighbours[difference(thing, other)].append(other)
    return neighbours


def _unlike_things(thing: Thing, split: Split, seed: int, rng: Random) -> list[Thing]:
    """Things of the split's other scenes that differ from this one in all attributes, without repetition."""
    pool = _pool(split, seed)
    strangers: dict[Thing, None] = {}
    while len(strangers) < WRONG:
        other = rng.choice(pool)
        if difference(thing, other) == len(thing):
            strangers[other] = None
    return list(strangers)


@lru_cache(maxsize=8)
def _pool(split: Split, seed: int) -> tuple[Thing, ...]:
    return tuple(thing for index in range(POOL) for thing in draw_scene(index, split, seed).things)
