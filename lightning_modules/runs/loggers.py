"""Every logger writes into the run's folder; a start of the run that goes on adds to what is there."""

from __future__ import annotations

import inspect
import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, TensorBoardLogger

logger = logging.getLogger("grainclip")
DEFAULTS = (None, "", ".", "runs", "./mlruns")  # values of ``save_dir`` that nobody chose on purpose
EXTRAS = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}  # the extra that brings a logger's package


def loggers(setting: Any, folder: Path, name: str, run: str) -> list[Logger]:
    """The loggers of the setting ``trainer.logger``, all in ``folder``: of TensorBoard the folder itself, of CSV files
    ``csv/version_N`` for each start, of Weights & Biases the run's own id, so that it goes on, of MLflow ``mlflow.db``
    and ``mlflow``.

    Args:
        setting: True or None for TensorBoard, False for none, a class with its arguments, or several.
        folder: the run's.
        name: the run's.
        run: its id.

    Raises:
        ImportError: where a logger's package is not installed.
    """
    if setting is False:
        return []
    if setting is None or setting is True:
        return [TensorBoardLogger(folder, name="", version="")]
    return [_logger(s, folder, name, run) for s in (setting if isinstance(setting, list) else [setting])]


def _logger(setting: Namespace, folder: Path, name: str, run: str) -> Logger:
    module, _, kind = setting.class_path.rpartition(".")
    logger_class = getattr(import_module(module), kind)
    known = inspect.signature(logger_class).parameters
    arguments = {**(setting.get("init_args") or Namespace()).as_dict(), **(setting.get("dict_kwargs") or {})}
    _warn_of_ignored_folder(arguments.get("save_dir"), folder)
    fixed = {"save_dir": str(folder)}
    fixed |= {
        "TensorBoardLogger": {"name": "", "version": ""},
        "CSVLogger": {"name": "csv", "version": None},
        "MLFlowLogger": _mlflow_arguments(arguments, folder, name),
        "WandbLogger": {
            "dir": None,
            "name": arguments.get("name") or name,
            "version": None,
            "id": arguments.get("id") or run,
        },
    }.get(kind, {})
    try:
        return logger_class(**arguments | {key: value for key, value in fixed.items() if key in known})
    except ImportError as error:
        if (extra := EXTRAS.get(kind)) is None:
            raise
        raise ImportError(f"{kind} needs {extra}: pip install 'grainclip[{extra}]'") from error


def _mlflow_arguments(arguments: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """A server that is named, else a database and artifacts in the run's folder: MLflow no longer keeps plain files."""
    fixed = {"save_dir": None, "run_name": arguments.get("run_name") or name}
    if server := arguments.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI"):
        return {**fixed, "tracking_uri": server}
    place = folder.absolute()
    return {**fixed, "tracking_uri": f"sqlite:///{place / 'mlflow.db'}", "artifact_location": str(place / "mlflow")}


def _warn_of_ignored_folder(save_dir: Any, folder: Path) -> None:
    if save_dir is not None and str(save_dir) not in DEFAULTS and Path(save_dir) != folder:
        logger.warning(
            "trainer.logger.save_dir %s: a run's logs lie in its folder, %s; --runs moves it", save_dir, folder
        )
