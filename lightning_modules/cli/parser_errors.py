"""jsonargparse's and Lightning's messages in one line that names the setting, the rule and the value.

``model.beta must be a number, got 'high'``; ``model.betta: BetaClip has no such setting; did you mean beta?``.
jsonargparse lists all its attempts, indented, with every setting of the class. Here the attempt that came nearest to
succeeding is chosen, and reported with the setting's whole name.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from datamodules.spelling import did_you_mean
from lightning_modules.cli.setting_names import class_of, classes_below, parameters, type_of

MOST = 200  # letters of a line
LONG = 90  # letters of a list of choices
UNION = "Does not validate against any of the Union subtypes"
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "NoneType": "null",
    "collections.abc.Iterable": "a list",
    "datetime.timedelta": "a time H:MM:SS",
}


class Cause(NamedTuple):
    """Why one attempt failed.

    Args:
        depth: how near it came to succeeding.
        key: the setting.
        rule: what goes behind the setting's name.
        types: what it must be, where that is all there is to say.
    """

    depth: int
    key: str
    rule: str
    types: tuple[str, ...] = ()


def one_line(message: str, known: Collection[str] = (), classes: Collection[str] = ()) -> tuple[str, str]:
    """The setting at fault ("" where none is), and the line that says what is wrong with it.

    Args:
        message: of the parser, or of the class that it instantiates.
        known: all settings, by their whole names.
        classes: names of classes that help can be asked about.
    """
    if match := re.fullmatch(r"(?:argument )?--(\S+\.help): Expected a dot import path string: (.*)", message.strip()):
        return match[1], f"--{match[1]}: no class {match[2]!r}{did_you_mean(match[2], classes)}"
    cause = _cause(textwrap.dedent(message).strip(), "", known)
    line = f"{cause.key}{cause.rule}" if cause.key else cause.rule.removeprefix(": ")
    return cause.key, " ".join(line.split())


def shortened(line: str, most: int = MOST - len("lightning: error: ")) -> str:
    """``line`` cut behind a word, with dots, where it is longer than ``most`` letters."""
    return line if len(line) <= most else textwrap.shorten(line, most, placeholder=" ...")


def named(message: str, settings: Mapping[str, Any]) -> tuple[str, str]:
    """The setting that a rule's message names, and the message with its whole name.

    ``beta must lie in [0, 1], got 1.5`` becomes ``model.beta must ...``: the setting is the one whose name ends so and,
    where there are several, that has the value which was got.

    Args:
        message: a rule's own words.
        settings: the values of all settings by their whole names.
    """
    line = first_sentence(one_line(message)[1])
    holders = [
        key
        for key, value in settings.items()
        if isinstance(value, str) and line.startswith((f"{value} ", f"{value}: "))
    ]
    if len(holders) == 1:
        return holders[0], f"{holders[0]}: {line}"
    match = re.match(r"[A-Za-z_][\w.]*", line)
    if match is None:
        return "", line
    name = match[0].rstrip(".")
    ending = [key for key in settings if key == name or key.endswith(f".{name}")]
    got = re.search(r", got '?(.*?)'?$", line)
    same = [key for key in ending if got is not None and str(settings[key]) == got[1]]
    matches = ending if len(ending) == 1 else [key for key in same if key.startswith("model.")] or same  # data's follow
    return (matches[0], matches[0] + line[len(name) :]) if len(matches) == 1 else ("", line)


def unknown(key: str, known: Collection[str]) -> Cause:
    """The cause for a setting that does not exist, with the nearest that does."""
    parts = key.split(".")
    heads = {head for setting in known for head in _heads(setting)}
    wrong = next((".".join(parts[: n + 1]) for n in range(len(parts)) if ".".join(parts[: n + 1]) not in heads), key)
    above = wrong.rpartition(".")[0]
    beside = [head.rpartition(".")[2] for head in heads if head.rpartition(".")[0] == above]
    near = did_you_mean(wrong.rpartition(".")[2], beside)
    near = near.replace("mean ", f"mean {above}.") if near and above else near
    if not near:
        same = sorted(
            (name for name in known if name.rpartition(".")[2] == parts[-1]), key=lambda name: name.count(".")
        )
        near = f"; did you mean {same[0]}?" if same else did_you_mean(key, known)
    return Cause(9, wrong, f": no such setting{near or '; `lightning fit --help` lists them'}")


def _heads(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[: count + 1]) for count in range(len(parts)))


def _cause(text: str, key: str, known: Collection[str], owner: str = "") -> Cause:
    """The cause in a message about ``key``, within the class ``owner``."""
    text = re.sub(r"^- Expected a path but .*\n- (?=Does not validate)", "", text.strip())
    if match := re.match(r'Parser key "([^"]*)":\s*', text):
        return _cause(_body(text[match.end() :]), _joined(key, match[1]), known, owner)
    if match := re.match(r"Problem with given class_path '([^']*)':\s*", text):
        cause = _cause(_body(text[match.end() :]), key, known, match[1])
        return cause._replace(depth=cause.depth + 10)
    if text.startswith(UNION):
        return _union(text, key, known, owner)
    return _plain(text, key, known, owner)


def _body(text: str) -> str:
    """The text after a head: its first line without an indent of its own, the others dedented."""
    first, newline, rest = text.partition("\n")
    return f"{first.strip()}{newline}{textwrap.dedent(rest)}"


def _union(text: str, key: str, known: Collection[str], owner: str) -> Cause:
    head, _, rest = text.partition("\nErrors:\n")
    errors, _, value_text = rest.partition("\nGiven value type:")
    value = value_text.partition("\nGiven value:")[2].strip()
    if match := re.fullmatch(r"NestedArg\(key='([^']*)', val='?(.*?)'?\)", value, re.DOTALL):
        value = match[2]
    attempts = re.split(r"^- ", textwrap.dedent(errors), flags=re.M)[1:]
    causes = [_cause(_body(attempt), key, known, owner) for attempt in attempts]
    best = max(causes, key=lambda cause: cause.depth)
    if best.types and best.key == key:
        types = tuple(dict.fromkeys(name for cause in causes for name in cause.types if cause.key == key))
        return _of_type(key, types, value)
    if best.rule.startswith(": no class"):
        return best._replace(rule=best.rule + did_you_mean(value.rpartition(".")[2], classes_below(head)))
    if best.rule.startswith(":  is no "):  # jsonargparse leaves the name out
        return best._replace(rule=best.rule.replace(":  ", f": {value} "))
    return best


def _plain(text: str, key: str, known: Collection[str], owner: str) -> Cause:
    patterns = {
        r"Option '(.+)' is not accepted": lambda m: _no_setting(key, m[1], owner, known),
        r"(?:.* )?unrecognized arguments: --(\S+?)\+?(?:[= ].*)?": lambda m: _no_setting(key, m[1], owner, known),
        r"unrecognized arguments: (.*)": lambda m: Cause(9, key, f": what is {m[1]!r} for? Settings begin with --"),
        r"Subcommand '.*' does not accept option '(.*)'": lambda m: unknown(m[1], known),
        r"Expected a dot import path string: (.*)": lambda m: Cause(4, key, f": no class {m[1]!r}"),
        r"Expected an? (?:<class '(?P<a>.*?)'>|(?P<b>.+?))(?:\. Got value: (?P<value>.*))?": lambda m: _of_type(
            key, (m["a"] or m["b"],), m["value"]
        ),
        r"module '.*' has no attribute '(.*)'": lambda m: Cause(
            4, key, f": no class {m[1]!r} in {owner.rpartition('.')[0]}"
        ),
        r"(?:Import of|No module named) '(.*)'.*": lambda m: Cause(4, key, f": no module {m[1]!r} here or installed"),
        r"Not a valid subclass of (\w+).*": lambda m: Cause(
            2, key, f" must be a {m[1]}: --{key} NAME, or class_path in a file"
        ),
        r"(?:the following arguments are required|Key.*required.*): (.*)": lambda m: _missing(key, m[1], owner),
        r"argument (?:-c/)?(--\S+): expected (?:one|at least one) argument": lambda m: Cause(
            9, "", f"{m[1]} needs a value"
        ),
        r"Linked \"(.*)\" must be given via \"(.*)\"\.": lambda m: Cause(
            9, "", f"{m[1]} follows {m[2].replace('.init_args', '')}: give that instead"
        ),
        r"Import path does not correspond to a subclass of (\w+)": lambda m: Cause(4, key, f": {owner} is no {m[1]}"),
        r"Unable to load config .*": lambda _: Cause(3, key, " must be a mapping of settings, or a YAML file of them"),
    }
    for pattern, make_cause in patterns.items():
        if match := re.fullmatch(pattern, text, re.DOTALL):
            return make_cause(match)
    return Cause(5, key, f": {text}" if key else text)


def _of_type(key: str, types: tuple[str, ...], value: str | None) -> Cause:
    """``types`` as jsonargparse names them, "int" or "typing.Literal['ce', 'bce']"."""
    choices = [word for name in types if "Literal[" in name for word in re.findall(r"'([^']*)'", name)]
    kinds = dict.fromkeys(TYPES.get(name, name) for name in types if "Literal[" not in name)
    if "a number" in kinds:
        kinds.pop("a whole number", None)
    rule = " or ".join(filter(None, [f"one of {', '.join(choices)}" if choices else "", *kinds]))
    got = "nothing" if value is None else _quoted(value)
    near = did_you_mean(value or "", choices) if choices else ""
    depth = 0 if types == ("NoneType",) else 3 if choices else 1
    if len(rule) > LONG:  # what was got must not be cut off
        return Cause(depth, key, f" cannot be {got}{near or f'; it must be {rule}'}", types)
    return Cause(depth, key, f" must be {rule}, got {got}{near}", types)


def _quoted(value: str) -> str:
    value = " ".join(value.split())
    return repr(value if len(value) <= 40 else value[:37] + "...")


def _missing(key: str, names: str, owner: str) -> Cause:
    if not key:
        if names.endswith("model"):
            return Cause(9, "", "a model is missing: --config configs/beta_bce.yaml, or --model BetaClip")
        return Cause(9, "", f"{names} must be given")
    return Cause(9, key, f": {owner.rpartition('.')[2]} needs {names.replace(', ', ' and ')}")


def _no_setting(key: str, name: str, owner: str, known: Collection[str]) -> Cause:
    """``name`` is no setting of the class ``owner``, or of the command."""
    if not owner:
        return unknown(_joined(key, name), known)
    *above, last = name.split(".")
    holder: Any = class_of(owner)
    for part in above:
        holder = type_of(holder, part)
    title = owner.rpartition(".")[2] if not above else ".".join(above)
    return Cause(9, _joined(key, name), f": {title} has no such setting{did_you_mean(last, parameters(holder))}")


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def first_sentence(message: str) -> str:
    """The first sentence of a library's message, which says what is wrong."""
    return re.split(r"(?<=[a-z\]'`]\.) (?=[A-Z])", message)[0].rstrip(".").replace("`", "")
