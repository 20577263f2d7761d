"""Captions mended; what is left out counted with examples."""

from __future__ import annotations

import pytest

from datamodules.prepare.rejected import Rejects
from datamodules.prepare.text_cleaning import as_sentence, mended, tidy, without_repeats


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" A dog ", "A dog."),
        ("A dog\n runs .", "A dog runs ."),
        ("Is it?", "Is it?"),
        ("A dog, ", "A dog."),
        ('A sign says "STOP"', 'A sign says "STOP".'),
        ("Tom &amp;amp; Jerry\x00\u200b", "Tom & Jerry."),
        ("The dogâ€™s bone", "The dog's bone."),
        (" ... ", ""),
        ("", ""),
    ],
)
def test_captions_become_sentences(text, sentence):
    assert as_sentence(text) == sentence
    assert tidy(sentence) == sentence


LONG = "A long caption of a street with many signs, some of them red, and of people who walk along it. "


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("the the dog dog. dog runs", "the dog dog. dog runs"),
        ("a\na dog", "a dog"),
        ("The sign reads 100000000.", "The sign reads 100000000."),
        (LONG + "red and blue, red and blue, red and blue, red and", LONG + "red and blue, red and"),
        (LONG + "x and x and x and x and y", LONG + "x and y"),
        ("no no no", "no"),
    ],
)
def test_repeats(text, plain):
    assert without_repeats(text) == plain


def test_mended_text_keeps_its_lines():
    assert mended("A dog\x00:\n- a&amp;b\r\n") == "A dog:\n- a&b\n"


def test_rejects_keep_a_few_names(caplog):
    rejects = Rejects(max_examples=2)
    for name in "abc":
        rejects.add("odd", name)
    rejects.report()
    assert rejects == {"odd": 3}
    assert "left out: 3 × odd (a, b, ...)" in caplog.text
