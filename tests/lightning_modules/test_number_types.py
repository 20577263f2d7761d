"""A whole number stays whole where a setting takes both kinds of numbers, whatever order typing's cache has."""

from __future__ import annotations

import typing
from dataclasses import dataclass

import pytest
from lightning import Callback, Trainer

from datamodules import GranularityData
from lightning_modules.cli.trainer import TrainerParser, int_before_float

Turned = float | int | None  # as typing's cache may give out Optional[Union[int, float]]


@dataclass
class Part:
    size: float | int = 0.5


class Sized(Callback):
    def __init__(self, size: Turned = None, part: Part | None = None) -> None:
        """A class that settings name."""


def parsed(*words: str):
    parser = TrainerParser()
    parser.add_argument("--alone", type=typing.Union[float, int, str, None])  # noqa: UP007
    parser.add_argument_group("together").add_argument("--grouped", type=Turned)
    parser.add_class_arguments(Sized, "of_class")
    parser.add_subclass_arguments(Callback, "callback")
    return parser.parse_args(["--callback", f"{__name__}.Sized", *words])


@pytest.mark.parametrize(("word", "value"), [("2", 2), ("1", 1), ("2.0", 2.0), ("0.5", 0.5), ("1e-3", 0.001)])
def test_a_number_has_the_type_that_it_is_written_in(word, value):
    settings = parsed(
        *(f"--{name}={word}" for name in ("alone", "grouped", "of_class.size", "of_class.part.size")),
        *(f"--callback.{name}={word}" for name in ("size", "part.size")),
    )
    inside = settings.callback.init_args
    found = [settings.alone, settings.grouped, settings.of_class.size, settings.of_class.part.size]
    for one in (*found, inside.size, inside.part.size):
        assert one == value
        assert type(one) is type(value)


def test_other_types_stay_as_they_are():
    for hint in (int, float, int | float, float | None, typing.Union[int, float], list[float], str | float):  # noqa: UP007
        assert int_before_float(hint) is hint
    assert typing.get_args(int_before_float(str | float | dict[str, int] | int | None)) == (
        *(str, int, float, dict[str, int], type(None)),
    )


def test_batches_are_counted_though_another_library_has_turned_the_type(monkeypatch):
    monkeypatch.setitem(Trainer.__init__.__wrapped__.__annotations__, "limit_train_batches", Turned)
    parser = TrainerParser()
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(GranularityData, "data")
    settings = parser.parse_args(["--trainer.limit_train_batches=2", "--data.shards=x.tar"])
    assert type(settings.trainer.limit_train_batches) is int
