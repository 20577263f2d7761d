"""The mini-study's files: what they say, and which runs that makes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "configs" / "study"


class Study(NamedTuple):
    """One file of ``configs/study``."""

    name: str
    start: str | None  # the model that all rows start from, as their configs say; None: rows train from scratch
    config: str  # of the method
    settings: dict[str, Any]  # fields of every row that has no config of its own
    rows: dict[str, dict[str, Any]]  # fields of each; ``config`` is another file in place of the study's
    columns: dict[str, str | list[str]]  # headings and the numbers below; of a list, its mean as a share of the start's
    claims: dict[str, dict[str, str]]  # the paper's: ``column``, ``row``, and the row it is ``over`` or ``not_below``
    figures: dict[str, dict[str, Any]]  # by file name; see ``figures.py``
    split: str = "held_out"  # the scenes that rows are measured on; a search for settings has ``dev``
    learned: str = ""  # what the rows show, in a search for settings
    scenes_seed: int = 0  # of the generator: another draws other scenes, to train and to measure on
    recipe: str = ""  # a config that every row reads after its own
    benchmarks: tuple[str, ...] = ()  # that rows are measured by, in place of scenes; of photographs that users have

    @property
    def of_photographs(self) -> bool:
        """Its rows train and are measured on a user's photographs: the command needs ``--root``."""
        return bool(self.benchmarks)

    @property
    def timed(self) -> bool:
        """A step of each row is timed: neither in a search nor again on other scenes."""
        return self.split == "held_out" and not self.scenes_seed

    @property
    def folder(self) -> Path:
        """The folder of the study's file: of its page ``README.md`` and its ``results``."""
        return (STUDIES / self.name).parent

    def shown(self) -> list[str]:
        """Names of the numbers that its columns are made of."""
        return [n for column in self.columns.values() for n in ([column] if isinstance(column, str) else column)]


class Run(NamedTuple):
    """One row with one seed."""

    study: Study
    row: str
    seed: int

    def config(self) -> str:
        """The method's file."""
        return self.study.rows[self.row].get("config", self.study.config)

    def configs(self) -> list[str]:
        """The files in the order in which they are read."""
        return [self.config(), *([self.study.recipe] if self.study.recipe else [])]

    def settings(self) -> dict[str, Any]:
        """Its further settings, without the seed."""
        row = self.study.rows[self.row]
        shared = {} if "config" in row else self.study.settings
        scenes = {"data.scenes.seed": self.study.scenes_seed} if self.study.scenes_seed else {}
        return scenes | shared | {key: value for key, value in row.items() if key != "config"}

    def fields(self) -> dict[str, Any]:
        """Its further settings, with the seed."""
        return self.settings() | {"seed_everything": self.seed, "data.seed": self.seed}

    def folder(self, out: Path) -> Path:
        """The output folder: rows of any study that train alike share it."""
        asked = json.dumps([self.configs(), self.fields()], sort_keys=True)
        return out / "trained" / f"{Path(self.config()).stem}_{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def read_study(name: str) -> Study:
    """The study of this name: its file's fields, and the others from the study that it is ``like``, if it names one.

    Raises:
        FileNotFoundError: where there is none; it names those there are.
    """
    file = STUDIES / f"{name}.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"no study {name!r}; there are {', '.join(all_studies())}")
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "like" in found:
        return read_study(found.pop("like"))._replace(name=name, **found)
    return Study(name, **found | {"benchmarks": tuple(found.get("benchmarks", ()))})


def all_studies() -> list[str]:
    """Names of the studies of the papers' claims; the searches for settings, ``search/NAME``, are not among them."""
    return sorted(file.stem for file in STUDIES.glob("*.yaml"))


def studies_of_scenes() -> list[str]:
    """Those that need no photographs."""
    return [name for name in all_studies() if not read_study(name).of_photographs]


def words(values: dict[str, Any]) -> list[str]:
    """Fields as words of a command line."""
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return [word for key, value in text.items() for word in (f"--{key}", value)]
