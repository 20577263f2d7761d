"""Inside each package imports go down only: from a room to those that stand before it in this list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {  # from the ground up; a file at a package's root is a room of its own
    "lightning_modules": [
        "errors",
        "networks",
        "checkpoints",
        "distributed",
        "methods",
        "inference",
        "runs",
        "boards",
        "callbacks",
        "cli",
        "__main__",
    ],
    "datamodules": [
        "spelling",
        "bounds",
        "terminal_text",
        "atomic_write",
        "sample",
        "batch",
        "image_decoding",
        "granularity",
        "formats",
        "batching",
        "shards",
        "reading",
        "prepare",
        "scenes",
        "datamodule",
    ],
    "eval": ["metrics", "results", "data", "interfaces", "protocols", "benchmarks", "drawing"],
}
MOST_FILES = 12  # at a package's root
QUESTIONS = {"What", "Where", "Which", "Who", "How", "Whether"}  # a docstring names a thing or an action


def modules() -> dict[str, Path]:
    """Every module of the packages with rooms, by its dotted name."""
    files = (file for package in ROOMS for file in sorted((ROOT / package).rglob("*.py")))
    return {dotted(file.relative_to(ROOT)): file for file in files}


def dotted(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def runtime_imports(source: str) -> Iterator[str]:
    """A module's imports at run time: names that only type checkers read are left out."""
    tree = ast.parse(source)
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in unseen:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import) and id(node) not in unseen:
            yield from (alias.name for alias in node.names)


def graph() -> dict[str, set[str]]:
    """The modules that each module imports; a name imported from a package stands for its ``__init__``."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, file in known.items():
        names = (one if one in known else one.rpartition(".")[0] for one in runtime_imports(file.read_text("utf-8")))
        found[name] = {one for one in names if one in known and one != name}
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("package", ROOMS)
def test_imports_between_rooms_go_down_only(package: str) -> None:
    order = {name: height for height, name in enumerate(ROOMS[package])}
    upward, nameless = [], set()
    for module, imported in graph().items():
        inside = [one for one in imported if one.startswith(f"{package}.")]
        if not module.startswith(f"{package}."):
            continue
        nameless |= {room(one) for one in (module, *inside)} - set(order)
        upward += [f"{module} -> {one}" for one in inside if order.get(room(one), 0) > order.get(room(module), 99)]
    assert not nameless
    assert not upward


def test_releases_are_read_in_one_room() -> None:
    """Preparation and evaluation both read a release by ``datamodules.formats``; neither reads by the other."""
    imported = {module: names for module, names in graph().items() if module.startswith("eval.")}
    assert not [module for module, names in imported.items() if any(n.startswith("datamodules.prepare") for n in names)]
    readers = {path.stem for path in (ROOT / "datamodules/formats").glob("*.py")} - {"__init__"}
    used = {name.removeprefix("datamodules.formats.") for names in graph().values() for name in names}
    assert readers <= used


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("package", [*ROOMS, "losses"])
def test_few_files_stand_at_a_packages_root(package: str) -> None:
    assert len(list((ROOT / package).glob("*.py"))) <= MOST_FILES


@pytest.mark.parametrize("package", [*ROOMS, "losses"])
def test_a_docstring_says_what_a_thing_is(package: str) -> None:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    found = [
        f"{file.relative_to(ROOT)}: {text.splitlines()[0]}"
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, kinds) and (text := ast.get_docstring(node)) and text.split()[0] in QUESTIONS
    ]
    assert not found


def test_a_circle_and_a_way_up_would_be_seen() -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import b\n"
    source = f"{guarded}import c\ndef f():\n    from d import e\n"
    assert list(runtime_imports(source)) == ["typing.TYPE_CHECKING", "c", "d.e"]
