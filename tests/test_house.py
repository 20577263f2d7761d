"""The house keeps its shape: imports go down only, the top level stays small, no file knows a particular machine."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "lightning_modules": {"eval", "losses", "datamodules"},
    "eval": {"datamodules"},
    "losses": set(),
    "datamodules": set(),
}
FOREIGN = {  # libraries that would bring a model to the data, or a trainer to the losses
    "losses": {"lightning", "pytorch_lightning", "timm", "transformers", "webdataset", "open_clip"},
    "datamodules": {"timm", "open_clip"},
    "eval": {"timm", "open_clip"},
}
TOP_LEVEL = {
    *FLOORS,
    *("configs", "tests", ".ci", ".github"),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"),
    *("pyproject.toml", "Makefile", ".gitignore", ".pre-commit-config.yaml"),
}
REFUSED_NAMES = {"utils.py", "common.py", "helpers.py", "misc.py"}
MACHINE_PATH = re.compile(r"(?<![\w.~}$/-])(?:/(?:work|tmp|home|root|Users)/|[A-Z]:\\Users)")


def modules(package):
    return sorted(file for file in (ROOT / package).rglob("*.py"))


def imports(source, package=()):
    """The dotted names that ``source`` imports; relative ones are resolved against the parts of ``package``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join((*above, *filter(None, [node.module])))


def imported_by(file):
    names = imports(file.read_text(encoding="utf-8"), file.relative_to(ROOT).parts[:-1])
    return {name.partition(".")[0] for name in names}


def tracked_files():
    """Files that git has or would add: source files, without environments, caches and runs."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listing.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_down_only(package):
    forbidden = {*FLOORS, "tests", "configs"} - FLOORS[package] - {package}
    forbidden |= FOREIGN.get(package, set())
    assert modules(package), f"{package}/ holds no module"
    wrong = {
        str(file.relative_to(ROOT)): names for file in modules(package) if (names := imported_by(file) & forbidden)
    }
    assert not wrong


def test_imports_are_found_wherever_they_stand():
    source = "import eval.metrics.ranking\nif True:\n    from losses import ClipLoss\ndef f():\n    from .a import b\n"
    assert set(imports(source, ("datamodules",))) == {"eval.metrics.ranking", "losses", "datamodules.a"}
    assert set(imports("from ..x import y\nfrom . import z", ("eval", "sources"))) == {"eval.x", "eval.sources"}


@pytest.mark.parametrize("package", FLOORS)
def test_every_module_opens_with_its_idea(package):
    silent = [file for file in modules(package) if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]
    assert not silent
    assert not [file for file in modules(package) if file.name in REFUSED_NAMES]


def long_ones(source):
    """Functions of more than 60 lines and their lengths, their documentation not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first, said = node.body[0], ast.get_docstring(node) is not None
            length = node.end_lineno - node.lineno + 1 - (first.end_lineno - first.lineno + 1 if said else 0)
            if length > 60:
                yield node.name, length


@pytest.mark.parametrize("package", [*FLOORS, "tests"])
def test_files_and_functions_are_short(package):
    texts = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in modules(package)}
    assert not {name: n for name, text in texts.items() if (n := len(text.splitlines())) > 400}
    assert not {name: found for name, text in texts.items() if (found := list(long_ones(text)))}
    assert list(long_ones("def f():\n" + "    1\n" * 60)) == [("f", 61)]
    assert not list(long_ones('def f():\n    """' + "a\n" * 60 + '"""\n    return 1\n'))


def test_top_level_holds_only_what_the_design_names():
    assert {name.partition("/")[0] for name in tracked_files()} <= TOP_LEVEL


def test_no_file_knows_a_machine():
    wrong = {}
    for name in tracked_files():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or an archive
        if found := MACHINE_PATH.findall(text):
            wrong[name] = found
    assert not wrong


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("open('{}work/shared/x')", True),
        ("cd {}home/ann/data", True),
        ("D:\\Users\\ann", True),
        ("https://example.org{}work/page", False),
        ("~{}work/x", False),
        ("$HOME{}tmp/x", False),
        ("a home/work balance", False),
    ],
)
def test_what_counts_as_a_machine_path(text, found):
    assert bool(MACHINE_PATH.search(text.format("/"))) == found
