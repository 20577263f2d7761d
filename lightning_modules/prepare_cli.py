"""``lightning prepare SOURCE``: one sub-command per data source."""

from __future__ import annotations

from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli

from datamodules.nltk_data import NltkDataError
from datamodules.prepare import SOURCES
from lightning_modules.complaints import fail


class OneLineParser(ArgumentParser):
    """Says what is wrong with the command line in one line, and stops."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        fail(message)


def run(arguments: list[str]) -> int:
    """Write shards from a data set; ``SystemExit(2)`` with one line on bad input."""
    sources: Any = {source.__name__.removeprefix("prepare_"): source for source in SOURCES}
    try:
        auto_cli(sources, args=arguments, prog="lightning prepare", as_positional=False, parser_class=OneLineParser)
    except (ModuleNotFoundError, NltkDataError, OSError, ValueError) as error:
        fail(str(error))
    return 0
