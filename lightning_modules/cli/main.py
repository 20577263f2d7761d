"""The command: ``lightning fit --config configs/beta_bce.yaml``; also installed as ``grainclip``.

The ``lightning`` distribution has no such command. Where ``lightning-sdk`` is installed too, commands that are not ours
are handed on to it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, version

from datamodules.spelling import did_you_mean
from datamodules.terminal_text import printable
from lightning_modules.cli import parsers
from lightning_modules.cli.config_files import ConfigError, check_configs, with_shipped_configs
from lightning_modules.cli.trainer_help import short_help, wants_short_help, without_all
from lightning_modules.errors import fail

HELP = """usage: lightning COMMAND [--config FILE ...] [--KEY VALUE ...]

Train CLIP on captions, sentences, phrases and regions.

  fit         train:     lightning fit --config configs/beta_bce.yaml
  validate    measure:   lightning validate --config runs/beta_bce/config.yaml --ckpt_path runs/.../best.ckpt
  prepare     write shards from a data set:  lightning prepare --help
  index       note where the samples of tars lie:  lightning index 'shards/*.tar'
  inspect     look at samples:  lightning inspect 'shards/*.tar' --html page.html
  evaluate    benchmarks on official files:  lightning evaluate --model best.ckpt --benchmark urban1k --root DATA
  test        the validation set's numbers, and the benchmarks that the config names
  predict     embeddings of shards:  lightning predict --model best.ckpt --shards shards/ --out embeddings
  export      a trained model for transformers or open_clip:  lightning export runs/.../best.ckpt FOLDER
  explain     where a model looks:  lightning explain --model best.ckpt --image cat.jpg --text "a cat" --out page.html
  report      runs as a web page:  lightning report runs/beta_ce runs/beta_bce --out report.html
  demo        a small CLIP before and after fine-tuning, in three minutes on two cores
  doctor      what is installed, what is missing and what to do about it

`lightning fit --config A.yaml --config B.yaml --model.beta 0.3` overlays files, then single values.
`lightning fit --help` explains the settings that people use, `lightning fit --model.help BetaClip` a method's;
`lightning fit --config FILE --print_config` shows every setting and its value, with `--brief` those that differ from
their defaults.
The same program: `grainclip COMMAND`, `python -m lightning_modules COMMAND`.
"""
LOGGER_FLAGS = ("--trainer.logger", "--trainer.logger+")
NEED_SAVE_DIR = ("CSVLogger", "TensorBoardLogger")
TRAINER_COMMANDS = ("fit", "validate", "test")
COMMANDS = ("evaluate", "predict", "export", "explain", "report", "inspect", "index", "demo", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status, 2 where the input is at fault."""
    words = list(map(underscored, sys.argv[1:] if arguments is None else arguments))
    command = words[0] if words else "--help"
    _show_messages()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the user's own methods are here; last on the path, they hide no package
    if command in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0
    if command == "--version":
        sys.stdout.write(f"grainclip {version('grainclip')}\n")
        return 0
    if command in TRAINER_COMMANDS and wants_short_help(words):
        sys.stdout.write(short_help(command))
        return 0
    if command in TRAINER_COMMANDS or command == "prepare":
        words = with_shipped_configs(words)
        try:
            check_configs(words)
        except ConfigError as error:
            fail(str(error))
    if command in TRAINER_COMMANDS:
        words = with_logger_folders(with_brief(words))
        from lightning_modules.cli.trainer import run

        return run(without_all(words))
    if command == "prepare":
        from lightning_modules.cli.prepare import run as prepare

        return prepare(words[1:])
    if command in COMMANDS:
        parsed = vars(parsers)[command]().parse(words[1:])
        return import_module(f"lightning_modules.cli.{command}").run(parsed)  # may wait for torch
    sdk = _lightning_sdk()
    if sdk is not None:
        return sdk.load()() or 0
    near = did_you_mean(command, ["prepare", "train", *TRAINER_COMMANDS, *COMMANDS]).replace("train?", "fit?")
    sys.stderr.write(f"lightning: error: no command {command!r}{near or '; `lightning --help` lists them'}\n")
    return 2


def underscored(word: str) -> str:
    """``--batch-size=8`` as ``--batch_size=8``: names have underscores, and either dash is understood."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else word


def with_brief(words: list[str]) -> list[str]:
    """``--print_config --brief`` as the parser knows it: without settings that have their default.

    Raises ``SystemExit`` with one line where ``--brief`` stands alone.
    """
    if "--brief" not in words:
        return words
    if "--print_config" not in words:
        fail("--brief goes with --print_config: it prints the settings that differ from their defaults")
    kept = [word for word in words if word != "--brief"]
    return ["--print_config=skip_default" if word == "--print_config" else word for word in kept]


def with_logger_folders(words: list[str]) -> list[str]:
    """``--trainer.logger+=CSVLogger`` with the ``save_dir`` that the class asks for; logs lie in the run's folder."""
    completed: list[str] = []
    for place, word in enumerate(words):
        completed.append(word)
        flag, _, value = word.partition("=")
        before = words[place - 1] if place else ""
        named = value if flag in LOGGER_FLAGS else word if before in LOGGER_FLAGS else ""
        following = "".join(words[place + 1 : place + 2])
        if named.rpartition(".")[2] in NEED_SAVE_DIR and not following.startswith("--trainer.logger.save_dir"):
            completed.append("--trainer.logger.save_dir=runs")
    return completed


def _show_messages() -> None:
    """Show the package's log messages as they are; a handler at the root logger would repeat Lightning's."""
    logger = logging.getLogger("grainclip")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(_without_controls in handler.filters for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.addFilter(_without_controls)
        logger.addHandler(handler)


def _without_controls(record: logging.LogRecord) -> bool:
    """Escape control characters in names and captions."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def _lightning_sdk() -> EntryPoint | None:
    """The command that lightning-sdk would have installed under our name, if it is there."""
    try:
        scripts = distribution("lightning-sdk").entry_points
    except PackageNotFoundError:
        return None
    return next((e for e in scripts if e.name == "lightning" and e.group == "console_scripts"), None)
