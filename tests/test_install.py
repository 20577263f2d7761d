"""What installs the package elsewhere agrees with it: the constraints, the image, the smoke tests, the workflow."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python 3.10 reads no TOML")

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "configs" / "docker"
LINE = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)( ;.*)?")


def constraints() -> dict[str, Version]:
    lines = [line for line in (DOCKER / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {canonicalize_name(match[1]): Version(match[2]) for match in matches if match}


def test_the_constraints_hold_every_dependency_in_a_version_that_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        Requirement(text) for text in (*project["dependencies"], *extras["dev"], *extras["lora"], *extras["wandb"])
    ]
    versions = constraints()
    for requirement in wanted:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
    assert all(version.local is None for version in versions.values())  # of no registry in particular


def test_the_image_copies_what_is_there_and_its_python_is_the_constraints_own():
    text = (DOCKER / "Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert {"lightning_modules", "datamodules", "losses", "eval", "configs", "pyproject.toml"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
    python = re.search(r"^FROM python:([\d.]+)-slim$", text, re.MULTILINE)
    assert python is not None
    assert f"Python {python[1]}" in (DOCKER / "constraints.txt").read_text().splitlines()[0]
    extras = re.search(r"'/opt/grainclip\[([\w,]+)\]'", text)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras is not None
    assert set(extras[1].split(",")) <= set(known)


def test_the_smoke_tests_are_there_and_the_workflow_runs_them():
    smoke = (ROOT / ".ci" / "smoke").read_text()
    files = re.findall(r"tests/[\w/]+\.py", smoke)
    assert len(files) > 5
    assert all((ROOT / file).is_file() for file in files)
    assert os.access(ROOT / ".ci" / "smoke", os.X_OK)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    versions = [one["versions"] for one in jobs["smoke"]["strategy"]["matrix"]["include"]]
    assert versions == ["--resolution lowest-direct", "open_clip_torch>=4,<5"]
    assert ".ci/smoke" in jobs["smoke"]["steps"][-1]["run"]
    assert "docker build -f configs/docker/Dockerfile" in jobs["image"]["steps"][1]["run"]
