"""TensorBoard's "HParams" tab: the same columns in the same order, whatever the method.

TensorBoard shows the columns that the first run of a folder defines, so every run writes one and the same definition:
the settings of all methods that this package brings. It sorts them by name, those marked as differing before all
others, and shows five by default: ``FIRST``, whose sort keys begin with a number.
The columns of numbers are the run's own curves: they are there from the first validation on, and stay up to date.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, get_args, get_type_hints

from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams.metadata import (
    EXPERIMENT_TAG,
    PLUGIN_DATA_VERSION,
    PLUGIN_NAME,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
)

import lightning_modules
from lightning_modules import METHODS
from lightning_modules.methods.base import Method

MESSAGES: Any = summary_pb2  # its classes and the two below are made when they are imported
API: Any = api_pb2
PLUGIN: Any = plugin_data_pb2
Value = str | float | bool
FIRST = ("method", "objective", "beta", "optim/lr", "data/batch_size")
RESULTS = {
    "val/caption/text_to_image/R@1": "caption to image, R@1",
    "val/caption/image_to_text/R@1": "image to caption, R@1",
    "val/sentence/text_to_image/R@1": "sentence to image, R@1",
    "val/sentence/image_to_text/R@1": "image to sentence, R@1",
    "val/hard_negatives/hard/accuracy": "hard negatives, accuracy",
    "val/boxes/top1": "boxes, top 1",
    "train/loss": "training loss",
}
DATA = {"shards": "", "samples": 0, "batch_size": 0, "ranks": 0}  # of what a data module tells of itself


def settings_of(provenance: Mapping[str, Any]) -> dict[str, Value]:
    """A run's settings by column, from its checkpoints' provenance, without those that are None."""
    data = {f"data/{name}": value for name, value in provenance["data"].items() if name in DATA}
    settings = {"method": provenance["method"], **dict(_flat(provenance["settings"])), **data}
    plain = (bool, int, float, str)
    return {n: v if isinstance(v, plain) else str(v) for n, v in settings.items() if v is not None}


def begin(writer: Any, settings: Mapping[str, Value]) -> None:
    """Define the columns, and write the settings of a run that begins."""
    columns = _columns()
    start = PLUGIN.SessionStartInfo()
    for name, value in settings.items():
        kind, key = columns.setdefault(name, _kind(value)), _key(name)
        if kind == API.DATA_TYPE_STRING:
            start.hparams[key].string_value = str(value)
        elif isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, (int, float)):
            start.hparams[key].number_value = value
    infos = [
        API.HParamInfo(name=_key(name), display_name=name, type=kind, differs=name in FIRST)
        for name, kind in columns.items()
    ]
    metrics = [API.MetricInfo(name=API.MetricName(tag=tag), display_name=name) for tag, name in RESULTS.items()]
    experiment = API.Experiment(hparam_infos=infos, metric_infos=metrics)
    _write(writer, EXPERIMENT_TAG, experiment=experiment)
    _write(writer, SESSION_START_INFO_TAG, session_start_info=start)


def end(writer: Any) -> None:
    """Write that the run has ended."""
    _write(writer, SESSION_END_INFO_TAG, session_end_info=PLUGIN.SessionEndInfo(status=API.STATUS_SUCCESS))


def _key(name: str) -> str:
    """The name that TensorBoard sorts a column by."""
    return f"{FIRST.index(name) + 1} {name}" if name in FIRST else name


def _write(writer: Any, tag: str, **content: Any) -> None:
    data = PLUGIN.HParamsPluginData(**content, version=PLUGIN_DATA_VERSION)
    plugin = MESSAGES.SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=data.SerializeToString())
    value = MESSAGES.Summary.Value(tag=tag, metadata=MESSAGES.SummaryMetadata(plugin_data=plugin))
    writer.file_writer.add_summary(MESSAGES.Summary(value=[value]))


def _columns() -> dict[str, Any]:
    """Names and types of all settings that any of the package's methods has, ``FIRST`` first."""
    columns: dict[str, Any] = dict.fromkeys(FIRST, API.DATA_TYPE_FLOAT64)
    columns["method"] = columns["objective"] = API.DATA_TYPE_STRING
    for method in (Method, *(getattr(lightning_modules, name) for name in METHODS)):
        hints = get_type_hints(method.__init__)
        parameters = inspect.signature(method).parameters.values()
        named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        defaults = {p.name: _group(hints[p.name]) if p.default is None else p.default for p in named}
        for setting, value in _flat(defaults):
            columns.setdefault(setting, _kind(value))
    return columns | {f"data/{name}": _kind(value) for name, value in DATA.items()}


def _group(hint: Any) -> object:
    """Of a setting that is None by default: the group of settings that it may be, with its own defaults; else None."""
    return next((one() for one in get_args(hint) if is_dataclass(one) and isinstance(one, type)), None)


def _kind(value: object) -> Any:
    if isinstance(value, bool):
        return API.DATA_TYPE_BOOL
    return API.DATA_TYPE_FLOAT64 if isinstance(value, (int, float)) else API.DATA_TYPE_STRING


def _flat(settings: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        if isinstance(plain, Mapping):
            yield from _flat(plain, f"{head}{name}/")
        else:
            yield f"{head}{name}", plain
