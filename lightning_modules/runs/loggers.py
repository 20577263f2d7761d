"""Every logger writes into the run's folder; a start of the run that goes on adds to what is there."""

from __future__ import annotations

import inspect
import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, TensorBoardLogger

logger = logging.getLogger("grainclip")
USUAL = (None, "", ".", "runs")  # what a config says where nobody has thought of it


def loggers(wanted: Any, folder: Path, name: str, run: str) -> list[Logger]:
    """The loggers of the setting ``trainer.logger``, all in ``folder``: of TensorBoard the folder itself, of CSV files
    ``csv/version_N`` for each start, of Weights & Biases the run's own id, so that it goes on.

    Args:
        wanted: the setting: True or None for TensorBoard, False for none, a class with its arguments, or several.
        folder: the run's.
        name: the run's.
        run: its id.

    Raises:
        ImportError: where a logger's package is not installed.
    """
    if wanted is False:
        return []
    if wanted is None or wanted is True:
        return [TensorBoardLogger(folder, name="", version="")]
    return [_logger(one, folder, name, run) for one in (wanted if isinstance(wanted, list) else [wanted])]


def _logger(wanted: Namespace, folder: Path, name: str, run: str) -> Logger:
    module, _, kind = wanted.class_path.rpartition(".")
    made = getattr(import_module(module), kind)
    known = inspect.signature(made).parameters
    given = {**(wanted.get("init_args") or Namespace()).as_dict(), **(wanted.get("dict_kwargs") or {})}
    _tell_of_another_place(given.get("save_dir"), folder)
    own = {"save_dir": str(folder)}
    own |= {
        "TensorBoardLogger": {"name": "", "version": ""},
        "CSVLogger": {"name": "csv", "version": None},
        "WandbLogger": {"dir": None, "name": given.get("name") or name, "version": None, "id": given.get("id") or run},
    }.get(kind, {})
    return made(**given | {key: value for key, value in own.items() if key in known})


def _tell_of_another_place(given: Any, folder: Path) -> None:
    if given is not None and str(given) not in USUAL and Path(given) != folder:
        logger.warning("trainer.logger.save_dir %s: a run's logs lie in its folder, %s; --runs moves it", given, folder)
