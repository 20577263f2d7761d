"""``lightning prepare SOURCE``: one sub-command per data source; all take the options of ``PrepareJob`` too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from typing_extensions import override

from datamodules.granularity.nltk_data import NltkDataError
from datamodules.prepare import SOURCES
from datamodules.prepare.job import PrepareJob
from datamodules.spelling import did_you_mean
from lightning_modules.cli.parser_errors import one_line, shortened
from lightning_modules.errors import fail

_JOB = "job"  # the parameter of every source


class PrepareParser(ArgumentParser):
    """Stops with one line that says what is wrong with the command line."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            fail(f"{self.prog} needs --{missing.replace(', ', ' and --')}; `{self.prog} --help` explains them")
        setting, line = one_line(message)
        fail(shortened(f"--{line}" if setting and not line.startswith("--") else line))


def run(arguments: list[str]) -> int:
    """Write shards from a data set; ``SystemExit(2)`` with one line on bad input."""
    name = arguments[0] if arguments else ""
    sources = _sources()
    if not arguments:
        fail(f"lightning prepare needs a source, one of {', '.join(sources)}")
    if name.startswith("-"):
        parser().parse_args(arguments)
    if name not in sources:
        near = did_you_mean(name, sources) or f"; it has {', '.join(sources)}"
        fail(f"lightning prepare has no source {name!r}{near}")
    source_parser = _parser(sources[name])
    source_parser.prog = f"lightning prepare {name}"
    for flag in (word.partition("=")[0] for word in arguments[1:] if word.startswith("--")):
        if flag not in source_parser._option_string_actions:
            near = did_you_mean(flag, source_parser._option_string_actions)
            hint = f"; `{source_parser.prog} --help` lists what it takes"
            fail(f"{source_parser.prog} has no {flag}{near or hint}")
    try:
        options = vars(source_parser.parse_args(arguments[1:]))
        options.pop("config")
        job = PrepareJob(**{field.name: options.pop(field.name) for field in fields(PrepareJob)})
        sources[name](**{_JOB: job}, **options)
    except (ModuleNotFoundError, NltkDataError, OSError, ValueError) as error:
        fail(str(error))
    return 0


def parser() -> ArgumentParser:
    """The whole command's parser: a sub-command for each source."""
    main_parser = PrepareParser(prog="lightning prepare", description="Write shards from a data set.")
    commands = main_parser.add_subcommands(dest="source")
    for name, source in _sources().items():
        commands.add_subcommand(name, _parser(source), help=_first_line(source))
    return main_parser


def _sources() -> dict[str, Callable[..., Any]]:
    return {source.__name__.removeprefix("prepare_"): source for source in SOURCES}


def _parser(source: Callable[..., Any]) -> PrepareParser:
    """The options of a source: its own arguments, and those of a ``PrepareJob``."""
    source_parser = PrepareParser(description=_first_line(source), allow_abbrev=False)
    source_parser.add_argument("--config", action="config", help="a YAML file of these options")
    source_parser.add_function_arguments(source, as_group=False, as_positional=False, skip={_JOB})
    source_parser.add_class_arguments(PrepareJob, as_group=False, as_positional=False)
    return source_parser


def _first_line(source: Callable[..., Any]) -> str:
    return (source.__doc__ or "").partition("\n")[0]
