"""``lightning fit | validate | test``: LightningCLI with our DataModule, our callbacks and errors of one
line.
"""

from __future__ import annotations

import logging
import operator
import os
import sys
import types
import typing
import warnings
from functools import reduce
from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from torch.distributed import DistError
from typing_extensions import override

from datamodules.datamodule import GranularityData
from datamodules.reading.bad_samples import DataError
from datamodules.shards.discovery import ShardError
from lightning_modules.callbacks import (
    BestCheckpoint,
    ConsoleLogger,
    DataMonitor,
    Diagnostics,
    LastCheckpoint,
    Preemption,
    RankConsistency,
    RateMonitor,
    ResultTable,
    SampleImages,
    Throughput,
)
from lightning_modules.callbacks.rank_consistency import Disagreement
from lightning_modules.checkpoints.atomic_save import CheckpointError
from lightning_modules.cli.config_files import line_of
from lightning_modules.cli.log_noise import silence
from lightning_modules.cli.parser_errors import MOST, named, one_line, shortened
from lightning_modules.cli.precision import best_precision
from lightning_modules.cli.run_command import RunCommand
from lightning_modules.cli.setting_names import class_names, class_settings, flat, nested_nulls, settings_of
from lightning_modules.cli.trainer_settings import SettingError, check_settings
from lightning_modules.errors import fail
from lightning_modules.methods.base import Method
from lightning_modules.methods.data_check import MethodError
from lightning_modules.methods.known_methods import know_all_methods
from lightning_modules.methods.optimizers import ScheduleError
from lightning_modules.methods.parameter_counts import parameter_counts, total
from lightning_modules.runs.start import Resume

logger = logging.getLogger("grainclip")


def int_before_float(hint: Any) -> Any:
    """The type ``hint``, with ``int`` before ``float`` in a union: the parser tries the types in their order.

    ``typing`` holds ``Union[int, float]`` and ``Union[float, int]`` equal, and its cache returns whichever was written
    first in the process, by any library. With ``float`` first, 2 batches would become 2.0, and 1 a share.
    """
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    kinds = list(typing.get_args(hint))
    if int not in kinds or float not in kinds or kinds.index(int) < kinds.index(float):
        return hint
    kinds.remove(int)
    kinds.insert(kinds.index(float), int)
    return reduce(operator.or_, kinds)  # Union[...] would be looked up in the cache


class TrainerParser(LightningArgumentParser):
    """Stops with one line that says what is wrong with the command line or a file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    @override
    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        action: Any = super().add_argument(*args, **kwargs)
        if hasattr(action, "_typehint"):
            action._typehint = int_before_float(action._typehint)
        return action  # jsonargparse gives this method to groups of arguments too

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        known = {*settings_of(self), *class_settings(Method, "model")}
        refuse(*one_line(message, known, class_names(Method)))


class GrainCli(LightningCLI):
    """The trainer's commands.

    ``model`` is any ``Method``; ``data`` is ``GranularityData``, whose image size and context length follow the
    encoder's.
    """

    def __init__(self) -> None:
        self.run: RunCommand | None = None
        super().__init__(
            Method,
            GranularityData,
            parser_class=TrainerParser,
            subclass_mode_model=True,
            save_config_callback=None,  # the run's keeper writes it, beside the weights that it describes
            trainer_defaults={
                "callbacks": [
                    RankConsistency(),
                    Throughput(),
                    DataMonitor(),
                    ConsoleLogger(),
                    ResultTable(),
                    RateMonitor(),
                ],
                "enable_model_summary": False,  # Lightning's counts no operations and warns; ours is a line
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
            },
            auto_configure_optimizers=False,
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str | None, help="the run's folder within --runs; None: the config's name")
        parser.add_argument("--runs", type=str, default="runs", help="the folder of all runs")
        parser.add_class_arguments(Resume, "resume")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(BestCheckpoint, "best_checkpoint")
        parser.add_lightning_class_args(Preemption, "preemption")
        parser.add_lightning_class_args(SampleImages, "images")
        parser.add_lightning_class_args(Diagnostics, "diagnostics")
        for name in ("image_size", "context_length"):
            parser.link_arguments(f"model.init_args.encoder.{name}", f"data.{name}")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        try:
            check_settings(self.config[self.config.subcommand])
        except SettingError as error:
            refuse(str(error).partition(" ")[0], str(error))

    @override
    def _parse_ckpt_path(self) -> None:
        """The files and the command line decide. LightningCLI would lay the checkpoint's settings over both."""

    @override
    def before_instantiate_classes(self) -> None:
        command = str(self.subcommand)
        settings = self.config[command]
        if settings.trainer.precision is None:
            settings.trainer.precision = best_precision(settings.trainer.accelerator)
        if not settings.trainer.fast_dev_run:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # jsonargparse 4.49 gave the argument a new name
                text = self._parser(command).dump(settings, skip_none=False)
            try:
                self.run = RunCommand(command, settings, text)
            except ValueError as error:
                fail(str(error))

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, FileNotFoundError, ImportError, MisconfigurationException) as error:
            refuse(*named(str(error), dict(flat(self.config[str(self.subcommand)]))))

    @override
    def after_instantiate_classes(self) -> None:
        if self.trainer.is_global_zero:
            counts = parameter_counts(self.model)
            logger.info(
                "%s: %s; on %d x %s in %s",
                *(type(self.model).__name__, total(counts.values()), self.trainer.world_size),
                *(self.trainer.strategy.root_device.type, self.trainer.precision),
            )
            logger.info("parameters: %s", "; ".join(f"{part} {count}" for part, count in counts.items()))

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except DistError as error:
            if vars(self.trainer.fit_loop.epoch_loop.batch_progress.total)["ready"]:
                raise  # during training: the lost rank reports why itself
            fail(unconnected(error))  # NCCL connects when the first numbers are exchanged
        finally:
            if self.run is not None:
                self.run.close()

    def before_fit(self) -> None:
        """Decide whether and how the run goes on, before anything is written.

        The method and the callbacks are asked whether they can work with the trainer, where they have a word on it.
        """
        for part in (self.model, *vars(self.trainer)["callbacks"]):
            if hasattr(part, "check_trainer"):
                try:
                    part.check_trainer(self.trainer)
                except ValueError as error:
                    fail(str(error))
        if self.run is not None:
            self.run.before_fit(self.trainer, self.model, self._get(self.config_init, "resume"), self.datamodule)

    def fit(self, **arguments: Any) -> None:
        """Train; ``LightningCLI`` calls this in place of the trainer's."""
        if self.run is None:
            self.trainer.fit(**arguments)
        else:
            self.run.fit(self.trainer, arguments)

    def validate(self, **arguments: Any) -> None:
        """Measure on the validation set."""
        self._measure("validate", arguments)

    def test(self, **arguments: Any) -> None:
        """Measure on the validation set, and by the benchmarks."""
        self._measure("test", arguments)

    def _measure(self, command: str, arguments: dict[str, Any]) -> None:
        if self.run is None:
            getattr(self.trainer, command)(**arguments)
        else:
            self.run.measure(self.trainer, self.model, self._get(self.config_init, "resume"), arguments)


class _ParsersFound(Exception):
    def __init__(self, parsers: dict[str, LightningArgumentParser]) -> None:
        super().__init__()
        self.parsers = parsers


class _ParserCli(GrainCli):
    """Stops when its parsers are made."""

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        raise _ParsersFound({name: self._parser(name) for name in ("fit", "validate", "test")})


def trainer_parsers() -> dict[str, LightningArgumentParser]:
    """The parsers of ``fit``, ``validate`` and ``test``, with all methods known."""
    know_all_methods()
    try:
        _ParserCli()
    except _ParsersFound as found:
        return found.parsers
    raise AssertionError("LightningCLI parses its arguments when it is made")


def refuse(setting: str, line: str) -> NoReturn:
    """Stop with one line, with the setting's place in the config files."""
    place = line_of(setting, sys.argv[1:]) if setting else ""
    fail(shortened(line) if not place else f"{shortened(line, MOST - len(place) - 21)} ({place})")


def unconnected(error: Exception) -> str:
    """The error for ranks that do not find each other."""
    place = f"{os.environ.get('MASTER_ADDR', 'localhost')}:{os.environ.get('MASTER_PORT', '?')}"
    name = f"rank {os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{name} cannot connect to the others at {place}: {reason}. Does every node reach this address, is the port "
        "free, and are as many processes started as trainer.num_nodes times trainer.devices? With several network "
        "cards name the right one in NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME; NCCL_DEBUG=INFO tells more"
    )


def run(arguments: list[str]) -> int:
    """Parse ``arguments`` and run; 0, or ``SystemExit(2)`` with one line on bad input."""
    sys.argv[1:] = nested_nulls(arguments)  # the DDP launcher starts its other ranks with this command line
    silence()
    know_all_methods()
    try:
        GrainCli()
    except (CheckpointError, Disagreement, MethodError, ScheduleError) as error:
        fail(str(error))
    except (ShardError, DataError) as error:
        fail(str(error).strip().rpartition("\n")[2].removeprefix("datamodules.reading.bad_samples.DataError: "))
    except KeyboardInterrupt:  # a run that has begun saves, and ends otherwise
        sys.stderr.write("\nlightning: stopped before the run began\n")
        return 130
    return 0
