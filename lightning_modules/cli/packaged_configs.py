"""Configs that come with the installed package: ``--config configs/clip.yaml`` works in any folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PLACE = Path(__file__).resolve().parents[2]  # of ``configs``: the checkout, or where the wheel was unpacked


def with_shipped_configs(arguments: Iterable[str], place: Path = PLACE) -> list[str]:
    """``arguments`` with files after ``--config`` that are only in the package, by their full paths.

    A file in the working folder goes before one of the same name in the package. A name that is in neither stays as it
    is, and is complained of where it is read.
    """
    found, after = [], False
    for word in arguments:
        name, equals, value = word.partition("=")
        if after:
            found.append(_of_the_package(word, place))
        elif name == "--config" and equals:
            found.append(f"{name}={_of_the_package(value, place)}")
        else:
            found.append(word)
        after = word == "--config"
    return found


def _of_the_package(name: str, place: Path) -> str:
    path = Path(name)
    inside = path.parts[:1] == ("configs",) and ".." not in path.parts
    return str(place / path) if inside and not path.exists() and (place / path).is_file() else name
