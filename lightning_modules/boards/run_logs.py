"""The files of a run's folder: curves and images in event files, ``results.json``, ``config.yaml``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ALL, LAST = 0, 1  # how many events of a kind are kept


class RunFiles(NamedTuple):
    """Content of a run's folder; fields of missing files are empty."""

    name: str
    scalars: dict[str, list[tuple[int, float]]]  # steps and values by tag
    images: dict[str, tuple[int, bytes]]  # the last step and its PNG file by tag
    numbers: dict[str, float]
    config: dict[str, str]  # flat: "model.init_args.beta" -> "0.5"


def read_run(folder: Path, name: str) -> RunFiles:
    """Read a run's folder.

    Raises:
        ValueError: where it is no folder, holds none of the files, or one of them cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"a run must be the folder of its logs, got {folder}")
    events = EventAccumulator(str(folder), {"scalars": ALL, "images": LAST}).Reload()
    tags = events.Tags()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    last = {tag: events.Images(tag)[-1] for tag in tags["images"]}
    images = {tag: (event.step, event.encoded_image_string) for tag, event in last.items()}
    results, config = folder / "results.json", folder / "config.yaml"
    try:
        numbers = json.loads(results.read_text(encoding="utf-8"))["numbers"] if results.is_file() else {}
        settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{folder}: results.json or config.yaml is damaged: {error}") from error
    if not (scalars or images or numbers or settings):
        if any(folder.glob("*tfevents*")):
            raise ValueError(f"{folder} holds event files, but nothing has been logged in them yet")
        raise ValueError(f"{folder} holds no run: no event files, no results.json, no config.yaml")
    return RunFiles(name, scalars, images, numbers, dict(_flat(settings, "")))


def _flat(settings: Any, head: str) -> Iterator[tuple[str, str]]:
    if isinstance(settings, dict) and settings:
        for name, value in settings.items():
            yield from _flat(value, f"{head}.{name}" if head else str(name))
    elif isinstance(settings, list) and any(isinstance(item, (dict, list)) for item in settings):
        for number, value in enumerate(settings):
            yield from _flat(value, f"{head}[{number}]")
    else:
        yield head, json.dumps(settings, ensure_ascii=False, default=str)
