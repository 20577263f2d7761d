"""JSON schemas of the commands' config files, made from the parsers: editors complete settings and mark mistakes.

``configs/schemas/COMMAND.json`` comes with the package; ``make schemas`` writes it anew, and a test compares. A config
names it in its first line: ``# yaml-language-server: $schema=schemas/fit.json``. Of the classes that a setting names by
``class_path``, this package's are known with all their settings; the settings of any other class are not checked.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from datetime import timedelta
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import Logger

from datamodules.atomic_write import write_text
from lightning_modules.cli.prepare import parser as prepare_parser
from lightning_modules.cli.setting_names import classes
from lightning_modules.cli.trainer import trainer_parsers

Schema: TypeAlias = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
OURS = ("lightning_modules", "datamodules", "losses", "eval")
CALLBACKS = "lightning_modules.callbacks"
LOGGERS = ("CSVLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger")
TRAINER = ("fit", "validate", "test")  # they read the same files
PLAIN: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string"},
    timedelta: {"type": "string"},
    type(None): {"type": "null"},
    Any: {},
}
APPENDED = {"^[a-z_]+\\+$": {}}  # `callbacks+: [...]` adds to a list


class _Schemas:
    """Schemas of types; those of classes with settings stand once, in ``definitions``."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}

    def of(self, hint: Any) -> Schema:
        """The schema of a type hint."""
        if hint in PLAIN:
            return dict(PLAIN[hint])
        origin, members = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return _any_of(self.of(member) for member in members)
        if origin is typing.Literal:
            return {"enum": list(members)}
        kind = origin if inspect.isclass(origin) else hint
        if not inspect.isclass(kind):
            return {}
        if issubclass(kind, Enum):
            return {"enum": [member.name for member in kind]}
        if base := next((base for base in PLAIN if inspect.isclass(base) and issubclass(kind, base)), None):
            return dict(PLAIN[base])
        if issubclass(kind, dict):
            return {"type": "object"}
        if issubclass(kind, Iterable) and origin is not None:
            return {"type": "array", **({"items": self.of(members[0])} if _alike(members) else {})}
        if is_dataclass(kind) and not classes(kind):
            return _any_of([{"$ref": self._settings(kind)}, {"type": "string"}])
        return self._instance(kind)

    def group(self, parser: ArgumentParser, head: str = "") -> Schema:
        """The settings of a parser whose names begin with ``head``, as one object."""
        root = _object()
        for action in parser._actions:
            hint = getattr(action, "_typehint", None)
            if hint is None or not action.dest.startswith(head):
                continue
            *path, name = action.dest.removeprefix(head).split(".")
            place = root
            for part in path:
                place = place["properties"].setdefault(part, _object())
            text = " ".join((action.help or "").replace("%%", "%").split())
            described = {"description": text} if text and text != "==SUPPRESS==" else {}
            default = {"default": action.default} if isinstance(action.default, (bool, int, float, str)) else {}
            place["properties"][name] = self.of(hint) | described | default
        return root

    def _settings(self, kind: type) -> str:
        """The reference to the schema of the settings of a class."""
        name = f"{kind.__module__}.{kind.__name__}"
        if name not in self.definitions:
            self.definitions[name] = _object()  # a class may name itself
            parser = ArgumentParser(exit_on_error=False)
            parser.add_class_arguments(kind, "x", fail_untyped=False)
            self.definitions[name] = self.group(parser, "x.")
        return f"#/definitions/{name}"

    def _instance(self, kind: type) -> Schema:
        """A class below ``kind``, by its name alone, or with ``init_args``."""
        name = f"a {kind.__module__}.{kind.__name__}"
        if name not in self.definitions:
            self.definitions[name] = {}  # a class may take one of its own kind
            public = {one: _public_name(one) for one in classes(kind) if not inspect.isabstract(one)}
            known = sorted((one for one in public if public[one]), key=lambda one: one.__name__)
            names = [*(public[one] for one in known), *(LOGGERS if kind is Logger else ())]
            path = _any_of([*([{"enum": names}] if names else []), {"type": "string"}])
            instance = _object(class_path=path, init_args={"type": "object"}, dict_kwargs={"type": "object"})
            if known:
                instance["allOf"] = [self._if_class(one) for one in known]
            self.definitions[name] = _any_of([path, instance])
        return {"$ref": f"#/definitions/{name}"}

    def _if_class(self, kind: type) -> Schema:
        named = {"class_path": {"type": "string", "pattern": f"(^|\\.){kind.__name__}$"}}
        return {
            "if": {"properties": named, "required": ["class_path"]},
            "then": {"properties": {"init_args": {"$ref": self._settings(kind)}}},
        }


def schemas() -> dict[str, Schema]:
    """The schema of each command that reads config files, by the name of its file without extension."""
    made = _Schemas()
    settings = _object()
    for parser in trainer_parsers().values():
        settings["properties"] |= made.group(parser)["properties"]
    found: dict[str, Schema] = {"fit": _whole("fit, validate and test", settings, made.definitions)}
    found |= {name: {"$schema": DRAFT, "$ref": "fit.json"} for name in TRAINER[1:]}
    for name, parser in _prepare_parsers().items():
        made = _Schemas()
        found[f"prepare_{name}"] = _whole(f"prepare {name}", made.group(parser), made.definitions)
    return found


def text_of(schema: Schema) -> str:
    """A schema as the text of its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write all schemas into a folder."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        write_text(folder / f"{name}.json", text_of(schema))
        sys.stdout.write(f"written: {folder / name}.json\n")
    return 0


def _prepare_parsers() -> dict[str, ArgumentParser]:
    (commands,) = (action for action in prepare_parser()._actions if isinstance(action.choices, dict))
    return dict(typing.cast("dict[str, ArgumentParser]", commands.choices))


def _whole(command: str, settings: Schema, definitions: dict[str, Schema]) -> Schema:
    title = {"$schema": DRAFT, "title": f"Settings of lightning {command}"}
    return title | settings | ({"definitions": dict(sorted(definitions.items()))} if definitions else {})


def _object(**properties: Schema) -> Schema:
    settings = {"type": "object", "properties": properties, "additionalProperties": False}
    return settings | {"patternProperties": APPENDED}


def _any_of(choices: Iterable[Schema]) -> Schema:
    unique: list[Schema] = []
    for choice in choices:
        unique += [] if choice in unique else [choice]
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def _alike(members: Sequence[Any]) -> bool:
    """True if all items of an array have one type."""
    return bool(members) and len({member for member in members if member is not Ellipsis}) == 1


def _public_name(kind: type) -> str | None:
    """The name by which users import a class; None where its package does not export it, or is none of ours."""
    package = kind.__module__.partition(".")[0]
    if package not in OURS:
        return None
    package = CALLBACKS if kind.__module__.startswith(CALLBACKS) else package
    exported = kind.__name__ in import_module(package).__all__
    return f"{package}.{kind.__name__}" if exported else None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
