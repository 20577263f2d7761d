"""Names of settings: of a parser, of the classes that a setting may name, and in a run's settings."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

_NESTED = re.compile(r"(?P<outer>--model\.(init_args\.)?(?!init_args\.)[^.=]+)\.(?P<inner>[^=]+)(=(?P<value>.*))?")
_NULLS = ("null", "Null", "NULL", "~")


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


def nested_nulls(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--model.optim.final null`` as ``--model.optim {"final": null}``.

    jsonargparse 4.53 makes the text "None" of a null that stands two or more levels below a class.
    """
    rest, written = list(arguments), []
    while rest:
        argument = rest.pop(0)
        match = _NESTED.fullmatch(argument)
        value = match and (match["value"] or (rest[0] if rest and match["value"] is None else ""))
        if match is None or value not in _NULLS:
            written.append(argument)
            continue
        if match["value"] is None:
            rest.pop(0)
        inner: Any = None
        for key in reversed(match["inner"].split(".")):
            inner = {key: inner}
        written += [match["outer"], json.dumps(inner)]
    return written


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
    inits = [vars(base)["__init__"] for base in inspect.getmro(owner) if "__init__" in vars(base)]
    arguments = [p for init in inits if inspect.isfunction(init) for p in inspect.signature(init).parameters.values()]
    return [p.name for p in arguments if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def type_of(owner: Any, name: str) -> Any:
    """The class that the parameter ``name`` of ``owner`` takes."""
    for base in inspect.getmro(owner) if inspect.isclass(owner) else ():
        init = vars(base).get("__init__")
        if inspect.isfunction(init) and name in inspect.signature(init).parameters:
            hint = typing.get_type_hints(init).get(name)
            union = typing.get_origin(hint) in (
                types.UnionType,
                typing.Union,
            )  # Python 3.10 makes the second of X | None
            members = typing.get_args(hint) if union else (hint,)
            return next((kind for kind in members if inspect.isclass(kind) and kind is not type(None)), None)
    return None


def classes_below(subtypes: str) -> list[str]:
    """Short names of all imported subclasses of the types that jsonargparse lists in ``subtypes``."""
    kinds = [class_of(path) for path in re.findall(r"[A-Za-z_][\w]*(?:\.\w+)+", subtypes)]
    return sorted({name for kind in kinds if inspect.isclass(kind) for name in class_names(kind)})


def class_names(kind: type) -> set[str]:
    """Short names of all imported classes below ``kind``."""
    return {subclass.__name__ for subclass in _below(kind)}


def classes(kind: type) -> list[type]:
    """All imported classes below ``kind``, each once, without it."""
    return list(dict.fromkeys(_below(kind)))


def _below(kind: type) -> Iterator[type]:
    for subclass in type.__subclasses__(kind):
        yield subclass
        yield from _below(subclass)


def class_settings(kind: type, head: str) -> Iterator[str]:
    """The settings of every class below ``kind``, and of the dataclasses in them, as ``head.NAME``."""
    for subclass in _below(kind):
        for name in parameters(subclass):
            yield f"{head}.{name}"
            value_type = type_of(subclass, name)
            if hasattr(value_type, "__dataclass_fields__"):
                yield from (f"{head}.{name}.{field}" for field in value_type.__dataclass_fields__)


def settings_of(parser: Any) -> Sequence[str]:
    """The names of all settings of a parser and its sub-commands."""
    names: list[str] = []
    for action in parser._actions:
        if isinstance(action.choices, Mapping):
            for subcommand in action.choices.values():
                names += settings_of(subcommand)
        elif action.dest and action.dest != "help":
            names.append(action.dest)
    return names
