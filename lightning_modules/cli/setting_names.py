"""Names of the settings: of a parser, of the classes that a setting may name, and in a run's own settings."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any


def flat(settings: Any, head: str = "") -> Iterator[tuple[str, Any]]:
    """All settings by their names as users give them: ``model.beta``, not ``model.init_args.beta``."""
    if hasattr(settings, "__dict__"):
        settings = vars(settings)
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from flat(value, head if name == "init_args" else f"{head}.{name}".lstrip("."))
    else:
        if isinstance(settings, list):
            for value in settings:
                if hasattr(value, "__dict__"):
                    yield from flat(value, head)
        yield head, settings


def class_of(path: str) -> Any:
    """The class at a dotted path; None where there is none."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def parameters(owner: Any) -> list[str]:
    """Parameters of the class and of its base classes."""
    if not inspect.isclass(owner):
        return []
    inits = [vars(one)["__init__"] for one in inspect.getmro(owner) if "__init__" in vars(one)]
    given = [one for init in inits if inspect.isfunction(init) for one in inspect.signature(init).parameters.values()]
    return [one.name for one in given if one.name != "self" and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


def type_of(owner: Any, name: str) -> Any:
    """The class that the parameter ``name`` of ``owner`` takes."""
    for one in inspect.getmro(owner) if inspect.isclass(owner) else ():
        init = vars(one).get("__init__")
        if inspect.isfunction(init) and name in inspect.signature(init).parameters:
            hint = typing.get_type_hints(init).get(name)
            either = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            return next((kind for kind in either if inspect.isclass(kind) and kind is not type(None)), None)
    return None


def classes_below(subtypes: str) -> list[str]:
    """Short names of all classes that are imported and of a kind that jsonargparse lists as possible."""
    kinds = [class_of(path) for path in re.findall(r"[A-Za-z_][\w]*(?:\.\w+)+", subtypes)]
    return sorted({name for kind in kinds if inspect.isclass(kind) for name in class_names(kind)})


def class_names(kind: type) -> set[str]:
    """Short names of all imported classes below ``kind``."""
    return {one.__name__ for one in _below(kind)}


def _below(kind: type) -> Iterator[type]:
    for one in type.__subclasses__(kind):
        yield one
        yield from _below(one)


def class_settings(kind: type, head: str) -> Iterator[str]:
    """The settings of every class below ``kind``, and of the dataclasses in them, as ``head.NAME``."""
    for one in _below(kind):
        for name in parameters(one):
            yield f"{head}.{name}"
            part = type_of(one, name)
            if hasattr(part, "__dataclass_fields__"):
                yield from (f"{head}.{name}.{field}" for field in part.__dataclass_fields__)


def settings_of(parser: Any) -> Sequence[str]:
    """The names of all settings of a parser and its sub-commands."""
    found: list[str] = []
    for action in parser._actions:
        if isinstance(action.choices, Mapping):
            for sub in action.choices.values():
                found += settings_of(sub)
        elif action.dest and action.dest != "help":
            found.append(action.dest)
    return found
