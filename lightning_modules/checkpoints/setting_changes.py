"""Settings that belong to a run, those that may differ between its starts, and the text of a difference.

Compared are the settings of model, data and seed, but for ``FREE``, and the few of the trainer that change what is
learnt, ``TRAINER``. All else may change freely: devices, nodes, strategy, precision, logging, callbacks, more steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

COMPARED = ("model", "data", "seed_everything")
TRAINER = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")  # of the trainer's settings
RECORDED = (
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.precision",
)  # may change, and stand in the run's history
FREE = (
    "model.memory",  # exact whatever it is
    "data.num_workers",
    "data.skip",
    "data.val_batch_size",
)
LATER = {  # settings that older runs do not record, and the value that stands for how they were trained
    "model.optim.layer_decay": 1.0,
    "model.freeze.image_tower": "none",
    "model.freeze.text_tower": "none",
}
Flat = dict[str, Any]


class Change(NamedTuple):
    """A setting that differs."""

    name: str
    old: Any
    new: Any

    @property
    def free(self) -> bool:
        """True if it needs no acceptance."""
        return self.name in RECORDED

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.old)} → {_shown(self.new)}"


def recorded(config: Mapping[str, Any]) -> Flat:
    """The settings of a whole config that a run's history tells, flat, by the names that people use: ``model.beta``."""
    settings: Flat = {}
    for part in COMPARED:
        settings |= _flat(config.get(part), part)
    trainer = config.get("trainer") or {}
    settings |= {f"trainer.{name}": trainer.get(name) for name in TRAINER}
    settings |= {name: trainer.get(name.removeprefix("trainer.")) for name in RECORDED}
    return {name: value for name, value in settings.items() if not _within(name, FREE)}


def changes(old: Flat, new: Flat) -> list[Change]:
    """The settings that differ, sorted by name. Settings within a class that itself differs are left out."""
    old = {name: value for name, value in LATER.items() if name in new} | old
    names = sorted(old.keys() | new.keys())
    differing = [Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]
    classes = [c.name for c in differing if _is_class(c.old) or _is_class(c.new)]
    return [c for c in differing if not any(c.name.startswith(f"{name}.") for name in classes)]


def accepted(change: Change, accept: bool | Iterable[str]) -> bool:
    """True if the user accepts a change: all of them, or those under the names given."""
    return accept if isinstance(accept, bool) else _within(change.name, tuple(accept))


def _flat(value: Any, name: str) -> Flat:
    if isinstance(value, Mapping) and "class_path" in value:
        inner = {**(value.get("init_args") or {}), **(value.get("dict_kwargs") or {})}
        return {name: str(value["class_path"])} | _children(inner, name)
    if isinstance(value, Mapping) and value:
        return _children(value, name)
    return {name: json.loads(json.dumps(value, default=str))}


def _children(values: Mapping[str, Any], name: str) -> Flat:
    settings: Flat = {}
    for key, value in values.items():
        settings |= _flat(value, f"{name}.{key}")
    return settings


def _within(name: str, parts: Iterable[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _is_class(value: Any) -> bool:
    if not isinstance(value, str) or "." not in value:
        return False
    parts = value.split(".")
    return all(part.isidentifier() for part in parts) and parts[-1][0].isupper()


def _shown(value: Any) -> str:
    if _is_class(value):
        return str(value).rpartition(".")[2]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"
