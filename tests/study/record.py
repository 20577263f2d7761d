"""The stored results of a study: numbers of the start and of each row and seed, beside their settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import yaml

from tests.study.rows import ROOT, Run, Study

Numbers = dict[str, float]


class Record(NamedTuple):
    """One study's results."""

    start: Numbers | None  # of the model that all rows start from; None: they train from scratch
    rows: dict[str, list[Numbers]]  # of each row, each seed's
    steps: dict[str, float]  # of each row, seconds of processor time of a training step

    def with_start(self) -> dict[str, list[Numbers]]:
        """The rows, below the model that they start from."""
        return self.rows if self.start is None else {"what all start from": [self.start], **self.rows}


def kept(study: Study, numbers: Numbers) -> Numbers:
    """Of a run's numbers those that the study shows."""
    return {name: round(numbers[name], 5) for name in study.shown() if name in numbers}


def to_json(study: Study, record: Record) -> dict[str, Any]:
    """The record with each row's config and fields, which ``from_json`` compares."""
    rows = {
        row: {
            **_asked(study, row),
            "configs": configs_digest(study, row),
            **({"seconds of a step": round(record.steps[row], 4)} if row in record.steps else {}),
            "seeds": seeds,
        }
        for row, seeds in record.rows.items()
    }
    return {"start": {"model": study.start, "numbers": record.start}, "rows": rows}


def from_json(study: Study, found: dict[str, Any]) -> Record:
    """Reads the output of ``to_json``.

    Raises:
        ValueError: where the study has changed since.
    """
    rows, start = found["rows"], found["start"]
    asked = {row: {key: own[key] for key in ("config", "fields")} for row, own in rows.items()}
    if asked != {row: _asked(study, row) for row in study.rows} or start["model"] != study.start:
        raise ValueError(f"{study.name} has other rows, fields or another start than its results: run it again")
    return Record(
        start["numbers"],
        {row: own["seeds"] for row, own in rows.items()},
        {row: own["seconds of a step"] for row, own in rows.items() if "seconds of a step" in own},
    )


def configs_digest(study: Study, row: str) -> str:
    """Tells whether what a row's configs set has changed: a digest of their content, without comments."""
    read = [yaml.safe_load((ROOT / config).read_text(encoding="utf-8")) for config in Run(study, row, 0).configs()]
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:12]


def _asked(study: Study, row: str) -> dict[str, Any]:
    run = Run(study, row, 0)
    return {"config": run.config(), "fields": run.settings()}
