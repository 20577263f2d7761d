"""Everything that the product imports is installed with it: a declared dependency, or one of a named extra."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lightning_modules", "datamodules", "losses", "eval", "configs")
OPTIONAL = {"spacy": "spacy", "pyarrow": "parquet", "peft": "lora"}  # import: the extra that brings it


def imported(folder: Path) -> dict[str, Path]:
    """The top-level names that the modules of a folder import, each with a file that does."""
    names: dict[str, Path] = {}
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0]: file for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names[node.module.partition(".")[0]] = file
    return {name: file for name, file in names.items() if name not in {*sys.stdlib_module_names, *PACKAGES}}


def declared(extra: str = "") -> set[str]:
    """The distributions that ``pip install grainclip`` brings, or ``grainclip[extra]``."""
    wanted = map(Requirement, requires("grainclip") or ())
    return {canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": extra})}


def installed() -> dict[str, set[str]]:
    """The distributions of each top-level name, by their files: not all distributions list their names."""
    found: dict[str, set[str]] = {}
    for distribution in distributions():
        for file in distribution.files or ():
            found.setdefault(file.parts[0].removesuffix(".py"), set()).add(canonicalize_name(distribution.name))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_declared(package: str) -> None:
    owners, missing = installed(), {}
    for name, file in imported(ROOT / package).items():
        known = owners.get(name, {canonicalize_name(name)})
        if not known & declared(OPTIONAL.get(name, "")):
            missing[name] = str(file.relative_to(ROOT))
    assert not missing


def test_imports_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import os, foo.bar\ndef f():\n    from baz import x\nfrom . import y\nimport eval\n"
    )
    assert set(imported(tmp_path)) == {"foo", "baz"}
