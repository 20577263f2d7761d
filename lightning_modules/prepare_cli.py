"""``lightning prepare SOURCE``: one sub-command per data source."""

from __future__ import annotations

from jsonargparse import auto_cli

from datamodules.prepare import SOURCES


def run(arguments: list[str]) -> int:
    """Write shards from a data set; ``SystemExit(2)`` with one line on bad input."""
    sources = {source.__name__.removeprefix("prepare_"): source for source in SOURCES}
    auto_cli(sources, args=arguments, prog="lightning prepare", as_positional=False)
    return 0
