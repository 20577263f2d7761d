"""A scene: a few coloured shapes in the cells of a 3 × 3 grid, on a background; and its random choice.

A data set on which methods are compared must need composition, so:

- Single things are common. There are 12 × 11 × 3 × 6 of them (shape, colour, size, texture), each stands in many
  scenes of both splits, and a scene often holds two of one colour or shape. What is rare is the combination.
- **Splits share no combination.** The bag of a scene's shapes together with the bag of its colours decides the split,
  by a hash that knows no seed. So no scene that is measured on has the things, or even just the shapes and colours, of
  a training scene. Settings are chosen on ``dev``; ``held_out`` is for the chosen ones.
- **A quarter of the dev and held-out scenes have a twin.** Scenes 8i and 8i + 1 differ in one exchange between two
  things: of their colours, textures, sizes or places. Twins have the same bag of attributes and places, so a model that
  does not bind these to things cannot distinguish twins, and its R@1 on captions stays below 7/8.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import combinations
from random import Random
from typing import Literal, NamedTuple

SHAPES = (
    *("circle", "square", "triangle", "diamond", "star", "heart"),
    *("cross", "ring", "crescent", "arrow", "hexagon", "hourglass"),
)
COLOURS = (
    *("red", "orange", "yellow", "green", "turquoise", "blue"),
    *("purple", "pink", "brown", "black", "white"),
)
SIZES = ("small", "medium", "large")
TEXTURES = ("solid", "striped", "dotted", "checkered", "faded", "split")
VALUES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}

TONES = ("light grey", "cream", "light blue", "light green", "lavender", "dark grey")
PATTERNS = ("plain", "lined", "squared", "speckled")

GRID = 3  # cells a side; cell c is row c // 3, column c % 3
MIN_THINGS, MAX_THINGS = 2, 6
HELD_OUT_SHARE = 8  # one combination in this many is held out, and one is for dev
TWINS_EVERY = 8  # dev or held-out scenes, of which the first two are twins

Split = Literal["train", "dev", "held_out"]


class Thing(NamedTuple):
    """A shape with its attributes; the fields are the keys of ``VALUES``."""

    shape: str
    colour: str
    size: str
    texture: str


class Scene(NamedTuple):
    """Things (no two alike), the grid cell of each (no two the same), and the background's tone and pattern."""

    things: tuple[Thing, ...]
    cells: tuple[int, ...]
    tone: str
    pattern: str

    def combination(self) -> tuple[Thing, ...]:
        """The bag of things, without positions, which two splits never share."""
        return tuple(sorted(self.things))


def draw_scene(index: int, split: Split, seed: int) -> Scene:
    """Scene ``index`` of a split: a function of its arguments alone. The splits have no end."""
    if split == "train":
        return _draw(Random(f"scenes/world/{seed}/train/{index}"), split)
    if split not in ("dev", "held_out"):
        raise ValueError(f"split must be 'train', 'dev' or 'held_out', got {split!r}")
    is_twin = index % TWINS_EVERY == 1
    rng = Random(f"scenes/world/{seed}/{split}/{index - is_twin}")
    scene = _draw(rng, split)
    return _twin(scene, rng) if is_twin else scene


def split_of(shapes: Sequence[str], colours: Sequence[str]) -> Split:
    """The split that scenes with these bags of shapes and colours belong to, for every seed."""
    bags = f"{','.join(sorted(shapes))};{','.join(sorted(colours))}"
    measured: dict[int, Split] = {0: "held_out", 1: "dev"}
    return measured.get(zlib.crc32(bags.encode()) % HELD_OUT_SHARE, "train")


def _twin(scene: Scene, rng: Random) -> Scene:
    """The scene after one exchange between two of its things; its bags of attributes and places stay the same."""
    pairs = list(combinations(range(len(scene.things)), 2))
    while True:  # an exchange of places is always possible
        attribute, (i, j) = rng.choice(("colour", "texture", "size", "place")), rng.choice(pairs)
        if attribute == "place":
            return scene._replace(cells=_swap(scene.cells, i, j, scene.cells[j], scene.cells[i]))
        a, b = scene.things[i], scene.things[j]
        value_a, value_b = getattr(a, attribute), getattr(b, attribute)
        a, b = a._replace(**{attribute: value_b}), b._replace(**{attribute: value_a})
        things = _swap(scene.things, i, j, a, b)
        if value_a != value_b and len(set(things)) == len(things):
            return scene._replace(things=things)


def _swap(items: tuple, i: int, j: int, at_i: object, at_j: object) -> tuple:
    changed = list(items)
    changed[i], changed[j] = at_i, at_j
    return tuple(changed)


def _draw(rng: Random, split: Split) -> Scene:
    count = rng.randint(MIN_THINGS, MAX_THINGS)
    while True:
        shapes, colours = rng.choices(SHAPES, k=count), rng.choices(COLOURS, k=count)
        if split_of(shapes, colours) == split:
            break
    while True:
        sizes, textures = rng.choices(SIZES, k=count), rng.choices(TEXTURES, k=count)
        things = tuple(map(Thing, shapes, colours, sizes, textures))
        if len(set(things)) == count:
            break
    cells = tuple(rng.sample(range(GRID * GRID), count))
    return Scene(things, cells, rng.choice(TONES), rng.choice(PATTERNS))
