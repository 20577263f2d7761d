"""The shard schema: what is written is read back, and each rule has an error that names field and value."""

from __future__ import annotations

import json

import pytest

from datamodules.sample import Choice, Phrase, Region, Sample, SampleError
from tests.helpers.tiny import make_sample


def members(**changes) -> dict:
    written = make_sample(3).members()
    record = json.loads(written["json"]) | changes
    return {**written, "json": json.dumps(record).encode()}


def test_stop_phrases_are_phrases_that_stand_apart():
    written = make_sample(3).members()
    assert "stop_phrases" not in json.loads(written["json"])  # shards without any are what they always were
    sample = make_sample(3, stop_phrases=(Phrase("A", 0, 0, 1),))
    assert Sample.from_members(sample.members()) == sample
    with pytest.raises(SampleError, match="'zebra'"):
        Sample.from_members(members(stop_phrases=[{"text": "zebra", "sentence": 0, "start": 0, "end": 5}]))


def test_round_trip():
    sample = make_sample(
        5,
        summary="A thing.",
        regions=(Region((0.0, 0.0, 1.0, 1.0)), Region((0.1, 0.1, 0.2, 0.2), 1, "cube")),
        choices=(Choice(1, "hard", ("a cube", "a ball")),),
        extension="png",
    )
    assert Sample.from_members(sample.members()) == sample


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"caption": None}, "caption", "'caption'"),
        ({"caption": "  "}, "caption", "'  '"),
        ({"caption": 7}, "caption", "7"),
        ({"version": 99}, "version", "99"),
        ({"sentences": "one"}, "sentence", "must be a list"),
        ({"sentences": ["one", ""]}, "sentence", "''"),
        ({"phrases": [{"text": "A", "sentence": 0, "start": 0, "end": 9999}]}, "phrase", "[0, 9999)"),
        ({"phrases": [{"text": "A", "sentence": 0, "start": -1, "end": 1}]}, "phrase", "[-1, 1)"),
        ({"phrases": [{"text": "zebra", "sentence": 0, "start": 0, "end": 5}]}, "phrase", "'zebra'"),
        ({"phrases": [{"text": "A", "sentence": 9, "start": 0, "end": 1}]}, "phrase", "sentence 9 of 2"),
        ({"phrases": [7]}, "phrase", "7"),
        ({"regions": [{"box": [0.1, 0.1, 1.2, 0.5]}]}, "box", "leaves the image"),
        ({"regions": [{"box": [-0.1, 0.1, 0.2, 0.5]}]}, "box", "leaves the image"),
        ({"regions": [{"box": [0.5, 0.1, 0.5, 0.5]}]}, "box", "no area"),
        ({"regions": [{"box": [10, 10, 200, 150]}]}, "box", "fractions"),
        ({"regions": [{"box": [0.1, 0.1, 0.5]}]}, "box", "[x0, y0, x1, y1]"),
        ({"regions": [{"box": [0.1, 0.1, float("nan"), 0.5]}]}, "box", "nan"),
        ({"regions": [{"box": [0.1, 0.1, 0.5, 0.5], "phrase": 2}]}, "box", "phrase 2 of 2"),
        ({"choices": [{"region": 1, "level": "hard", "texts": ["a", "b"]}]}, "choice", "region 1 of 1"),
        ({"choices": [{"region": 0, "level": "hard", "texts": ["a"]}]}, "choice", "at least two"),
    ],
)
def test_rules(changes, reason, says):
    with pytest.raises(SampleError) as error:
        Sample.from_members(members(**changes))
    assert error.value.reason == reason
    assert says in str(error.value)


def test_json_that_is_none():
    for raw in (b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        with pytest.raises(SampleError) as error:
            Sample.from_members({**members(), "json": raw})
        assert error.value.reason == "json"


def test_missing_members():
    whole = members()
    with pytest.raises(SampleError, match="no image member"):
        Sample.from_members({k: v for k, v in whole.items() if k != "jpg"})
    with pytest.raises(SampleError, match="no json member"):
        Sample.from_members({k: v for k, v in whole.items() if k != "json"})
