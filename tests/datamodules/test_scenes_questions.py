"""Questions about boxes: one true description, ten false ones that differ in exactly what their level says."""

from __future__ import annotations

import re

import pytest

from datamodules import scenes
from datamodules.sample import Sample
from datamodules.scenes.words import ADJECTIVES, NOUNS, TEXTURE_NOUNS
from datamodules.scenes.world import Scene, Split, Thing, draw_scene

MEANING = {word: value for rows in (NOUNS, *ADJECTIVES.values()) for value, words in rows.items() for word in words}
KINDS = dict.fromkeys(NOUNS, "noun") | {value: attribute for attribute, rows in ADJECTIVES.items() for value in rows}
DIFFERING = {"hard": 1, "medium": 2, "easy": 3, "trivial": 4}


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Scene, Sample]]:
    splits: tuple[Split, ...] = ("dev", "held_out")
    return [(draw_scene(i, split, 0), scenes.sample(i, split)) for split in splits for i in range(60)]


def test_every_level_is_asked_of_two_things(pairs: list) -> None:
    for _, sample in pairs:
        asked = {choice.region for choice in sample.choices}
        assert len(asked) == 2
        for region in asked:
            assert [c.level for c in sample.choices if c.region == region] == list(DIFFERING)


def test_right_is_true_and_wrong_differs_by_level(pairs: list) -> None:
    for scene, sample in pairs:
        boxes = list(dict.fromkeys(region.box for region in sample.regions))
        for choice in sample.choices:
            thing = scene.things[boxes.index(sample.regions[choice.region].box)]
            assert len(set(choice.texts)) == len(choice.texts) == 11
            right, *wrong = map(_read, choice.texts)
            assert right == thing
            for other in wrong:
                differing = [x != y for x, y in zip(right, other, strict=True)]
                assert sum(differing) == DIFFERING[choice.level]
                assert differing[0] == (choice.level == "trivial")


def test_texts_of_a_question_have_one_wording(pairs: list) -> None:
    for _, sample in pairs:
        for choice in sample.choices:
            words: dict[str, set[str]] = {}
            for text in choice.texts:
                for value, word in _values(text):
                    words.setdefault(value, set()).add(word)
            assert all(len(used) == 1 for used in words.values())
            assert len({_skeleton(text) for text in choice.texts}) == 1


def test_the_number_of_things_asked_is_an_argument() -> None:
    assert scenes.sample(0, "train").choices == ()
    assert scenes.sample(0, "held_out", asked=0).choices == ()
    sample, scene = scenes.sample(4, "held_out", asked=99), draw_scene(4, "held_out", 0)
    assert len(sample.choices) == 4 * len(scene.things)
    assert sample.caption == scenes.sample(4, "held_out").caption


def _values(text: str) -> list[tuple[str, str]]:
    """The (value, words) that a description holds, read without the generator."""
    values = []
    for value, rows in TEXTURE_NOUNS.items():
        for having, _ in rows:
            if text.endswith(f"with {having}"):
                values.append((value, having))
                text = text.removesuffix(having)
    return values + [(MEANING[word], word) for word in text.split() if word in MEANING]


def _read(text: str) -> Thing:
    values = {value for value, _ in _values(text)}
    assert len(values) == 4, text
    rows = (NOUNS, ADJECTIVES["colour"], ADJECTIVES["size"], ADJECTIVES["texture"])
    return Thing(*(next(v for v in row if v in values) for row in rows))


def _skeleton(text: str) -> str:
    """The description with each value replaced by its attribute."""
    for value, words in _values(text):
        text = re.sub(rf"(?<!\w){words}(?!\w)", f"<{KINDS[value]}>", text)
    return re.sub(r"^an?\b", "a", text)
