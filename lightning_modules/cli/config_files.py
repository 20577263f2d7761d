"""The YAML files of a command line: those of the package are found in any folder, all are checked before heavy imports
(present, text, whole, no key twice), and a setting's line in them is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from datamodules.spelling import did_you_mean

PLACE = Path(__file__).resolve().parents[2]  # of ``configs``: the checkout, or where the wheel was unpacked
CONFIG = ("--config", "-c")
GROUPS = ("--model", "--data", "--trainer", "--model.encoder", "--model.optim")  # each may be a file of its own
SHORT_NAME = re.compile(r"(recipes/)?\w+")  # of a config of the package
ENDINGS = (".yaml", ".yml")
WRAPPERS = ("init_args", "dict_kwargs")  # levels of a file that a setting's name may leave out


class ConfigError(ValueError):
    """A config file cannot be used; the message names the file and, where there is one, the line."""


def with_shipped_configs(words: Iterable[str], place: Path = PLACE) -> list[str]:
    """``words`` with the full path of each file after ``--config`` that is only in the package.

    ``--config configs/clip.yaml``, and ``--config clip`` or ``recipes/lora`` for short, so work in any folder. A file
    in the working folder goes before one of the same name in the package. A name that is in neither stays as it is,
    and is an error where it is read.
    """
    resolved, is_config = [], False
    for word in words:
        name, equals, value = word.partition("=")
        if is_config:
            resolved.append(_in_package(word, place))
        elif name == "--config" and equals:
            resolved.append(f"{name}={_in_package(value, place)}")
        else:
            resolved.append(word)
        is_config = word == "--config"
    return resolved


def _in_package(name: str, place: Path) -> str:
    path = Path(name)
    if not path.parts or ".." in path.parts or path.is_absolute() or path.is_file():
        return name
    inside = [path] if path.parts[0] == "configs" else []
    if SHORT_NAME.fullmatch(name):
        inside = [Path("configs", f"{name}.yaml"), Path("configs", "recipes", f"{name}.yaml")]
    return next((str(place / file) for file in inside if (place / file).is_file()), name)


def check_configs(words: Sequence[str]) -> None:
    """Read the YAML files that ``words`` name, as ``--config`` or in place of a group of settings.

    Raises:
        ConfigError: where one is missing, binary, empty, no YAML, no mapping, or gives a key twice.
    """
    for file in _files(words):
        _check_keys(_node(file), file, "")


def line_of(setting: str, words: Sequence[str]) -> str:
    """``"FILE, line N"`` of ``setting`` in the last config file that has it; "" where none has it, or the words do."""
    flags = {word.partition("=")[0].removeprefix("--").removesuffix("+") for word in words if word.startswith("--")}
    if {setting, *_shorter(setting)} & {flag.replace(".init_args", "") for flag in flags}:
        return ""
    for file in reversed(list(_files(words))):
        node = _key_node(_node(file), setting.split("."))
        if node is not None:
            return f"{_short_path(file)}, line {node.start_mark.line + 1}"
    return ""


def _short_path(file: Path) -> str:
    """The file's path, short: within the package, or within the working folder."""
    for folder in (Path.cwd(), PLACE):
        if file.is_absolute() and file.is_relative_to(folder):
            return str(file.relative_to(folder))
    return str(file)


def _shorter(setting: str) -> Iterator[str]:
    """The settings that hold ``setting``, but for the first part alone."""
    parts = setting.split(".")
    return (".".join(parts[:count]) for count in range(2, len(parts)))


def _files(words: Sequence[str]) -> Iterator[Path]:
    """Config files, and YAML files that exist and stand as a flag's value."""
    before = ""
    for word in words:
        flag, equals, value = word.partition("=")
        if not (word.startswith("--") and equals):
            flag, value = before, word
        config = flag in CONFIG and not value.startswith(("{", "[")) and "://" not in value and value != ""
        if config or (flag in GROUPS and value.endswith(ENDINGS) and Path(value).is_file()):
            yield Path(value)
        before = word


def _node(file: Path) -> yaml.MappingNode:
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except FileNotFoundError as error:
        configs = {path.stem: path for folder in (PLACE / "configs", file.parent) for path in folder.glob("*.yaml")}
        near = did_you_mean(file.stem, configs)
        for stem, path in configs.items():
            near = near.replace(f" {stem}?", f" {_short_path(path)}?")
        raise ConfigError(f"--config {file}: no such file{near}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {file}: no YAML, it is no text (a byte that is not UTF-8)") from error
    except OSError as error:
        raise ConfigError(f"--config {file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise ConfigError(f"--config {file}{line}: no YAML: {getattr(error, 'problem', None) or error}") from error
    if root is None:
        raise ConfigError(f"--config {file}: the file is empty, it holds no settings")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"--config {file}: must hold settings, `name: value`, got {_short(root)}")
    return root


def _short(node: yaml.Node) -> str:
    return f"{node.value[:40]!r}" if isinstance(node, yaml.ScalarNode) else "a list"


def _check_keys(node: yaml.Node, file: Path, head: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, file, head)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines and name != "<<":
                raise ConfigError(
                    f"--config {file}, line {line}: {head}{name} is given twice, in line {lines[name]} too; leave one"
                )
            lines[name] = line
            _check_keys(value, file, f"{head}{name}.")


def _key_node(node: yaml.Node, parts: Sequence[str]) -> yaml.Node | None:
    """The node of a setting's key; in a list on the way to it, the first item that has the rest counts."""
    if isinstance(node, yaml.SequenceNode):
        return _first(_key_node(item, parts) for item in node.value)
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        if key.value == parts[0]:
            return key if len(parts) == 1 else _key_node(value, parts[1:])
    return _first(_key_node(value, parts) for key, value in node.value if key.value in WRAPPERS)


def _first(nodes: Iterable[yaml.Node | None]) -> yaml.Node | None:
    return next((node for node in nodes if node is not None), None)
