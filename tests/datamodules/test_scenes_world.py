"""Scenes: what the splits share and do not share, twins, and determinism."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from datamodules import scenes
from datamodules.sample import Sample
from datamodules.scenes.world import COLOURS, SHAPES, TWINS_EVERY, VALUES, Scene, Split, draw_scene

ROOT = Path(__file__).resolve().parents[2]
MANY = 3000
SPLITS: tuple[Split, ...] = ("train", "dev", "held_out")


@pytest.fixture(scope="module")
def train() -> list[Scene]:
    return [draw_scene(i, "train", 0) for i in range(MANY)]


@pytest.fixture(scope="module")
def held_out() -> list[Scene]:
    return [draw_scene(i, "held_out", 0) for i in range(MANY // 3)]


@pytest.fixture(scope="module")
def dev() -> list[Scene]:
    return [draw_scene(i, "dev", 0) for i in range(MANY // 3)]


def test_scenes_are_well_formed(train: list[Scene], held_out: list[Scene]) -> None:
    for scene in train + held_out:
        assert 2 <= len(scene.things) == len(scene.cells) <= 6
        assert len(set(scene.things)) == len(scene.things)
        assert len(set(scene.cells)) == len(scene.cells)
        assert all(0 <= cell < 9 for cell in scene.cells)
    assert {len(scene.things) for scene in train} == {2, 3, 4, 5, 6}


def test_splits_share_no_combination(train: list[Scene], dev: list[Scene], held_out: list[Scene]) -> None:
    other_seed: dict[Split, list[Scene]] = {
        split: [draw_scene(i, split, 1) for i in range(len(scenes))]
        for split, scenes in zip(SPLITS, (train, dev, held_out), strict=True)
    }
    seen = dict(zip(SPLITS, (train, dev, held_out), strict=True))
    for one, other in combinations(SPLITS, 2):
        drawn = [*seen[one], *other_seed[one]]
        things, bags = {scene.combination() for scene in drawn}, {_bags(scene) for scene in drawn}
        for scene in (*seen[other], *other_seed[other]):
            assert scene.combination() not in things
            assert _bags(scene) not in bags


def test_every_value_stands_in_every_split(train: list[Scene], dev: list[Scene], held_out: list[Scene]) -> None:
    for split in (train, dev, held_out):
        things = [thing for scene in split for thing in scene.things]
        for attribute, values in VALUES.items():
            counts = Counter(getattr(thing, attribute) for thing in things)
            assert set(counts) == set(values)
            assert min(counts.values()) > 0.6 * len(things) / len(values)
        assert len({(thing.shape, thing.colour) for thing in things}) == len(SHAPES) * len(COLOURS)


@pytest.mark.parametrize("split", ["dev", "held_out"])
def test_twins_differ_in_one_exchange(split: str, request: pytest.FixtureRequest) -> None:
    scenes = request.getfixturevalue(split)
    exchanged = Counter()
    for first, second in zip(scenes[::TWINS_EVERY], scenes[1::TWINS_EVERY], strict=True):
        assert first != second
        assert (first.tone, first.pattern) == (second.tone, second.pattern)
        assert sorted(first.cells) == sorted(second.cells)
        for column in range(4):
            assert Counter(t[column] for t in first.things) == Counter(t[column] for t in second.things)
        pairs = zip(
            zip(first.things, first.cells, strict=True), zip(second.things, second.cells, strict=True), strict=True
        )
        changes = [(a, b) for a, b in pairs if a != b]
        assert len(changes) == 2
        (before, cell), (after, new_cell) = changes[0]
        names = [n for n, x, y in zip(before._fields, before, after, strict=True) if x != y] + ["place"] * (
            cell != new_cell
        )
        assert len(names) == 1
        exchanged[names[0]] += 1
    assert set(exchanged) == {"colour", "size", "texture", "place"}
    assert min(exchanged.values()) > 0.1 * len(scenes) / TWINS_EVERY


def test_other_held_out_scenes_have_no_twin(held_out: list[Scene]) -> None:
    others = [scene for i, scene in enumerate(held_out) if i % TWINS_EVERY > 1]
    bags = Counter((_bags(scene), tuple(sorted(scene.cells))) for scene in others)
    assert len(bags) > 0.99 * len(others)


def test_a_sample_depends_on_its_arguments_alone() -> None:
    backwards = {i: scenes.sample(i, "held_out", seed=3) for i in reversed(range(6))}
    for i in range(6):
        assert scenes.sample(i, "held_out", seed=3) == backwards[i]
    assert scenes.sample(0, "train", seed=3).caption != scenes.sample(0, "train", seed=4).caption
    assert scenes.sample(0, "train").key != scenes.sample(1, "train").key


def test_another_process_makes_the_same_samples() -> None:
    script = (
        "import hashlib; from datamodules import scenes; d = hashlib.sha256()\n"
        "for i in range(20):\n  for s in ('train', 'dev', 'held_out'):\n"
        "    m = scenes.sample(i, s, 5).members(); d.update(m['png'] + m['json'])\n"
        "import sys; sys.stdout.write(d.hexdigest())"
    )
    command, environment = [sys.executable, "-c", script], os.environ | {"PYTHONHASHSEED": "1"}
    there = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, text=True).stdout
    digest = hashlib.sha256()
    for i in range(20):
        for split in SPLITS:
            members = scenes.sample(i, split, 5).members()
            digest.update(members["png"] + members["json"])
    assert there == digest.hexdigest()


def test_texts_are_pinned() -> None:
    """Whoever changes a text on purpose raises ``shards.VERSION`` and this digest together."""
    digest = hashlib.sha256()
    for i in range(20):
        for split in SPLITS:
            sample = scenes.sample(i, split)
            digest.update(repr((sample.caption, sample.phrases, sample.choices)).encode())
    assert digest.hexdigest()[:16] == "41f8aa6f325228d3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": -1, "split": "train"}, "index must not be negative, got -1"),
        ({"index": 0, "split": "test"}, "split must be 'train', 'dev' or 'held_out', got 'test'"),
        ({"index": 0, "split": "train", "size": 8}, "size must be at least 32 pixels .* got 8"),
        ({"index": 0, "split": "held_out", "asked": -2}, "asked must not be negative, got -2"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes.sample(**arguments)


def test_samples_pass_the_schema() -> None:
    counts: dict[Split, int] = {"train": 300, "dev": 60, "held_out": 60}
    for split, count in counts.items():
        for i in range(count):
            sample = scenes.sample(i, split)
            assert Sample.from_members(sample.members()) == sample
            assert sample.caption == " ".join(sample.sentences)
            assert sample.summary == sample.sentences[0]
            assert len(set(sample.sentences)) == len(sample.sentences)


def _bags(scene: Scene) -> tuple:
    return tuple(sorted(t.shape for t in scene.things)), tuple(sorted(t.colour for t in scene.things))
