"""A suggestion for a misspelt or shortened name, for the end of an error message."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean NAME?"`` with the nearest of ``names`` where one is near, else ``""``."""
    by_case = {known.casefold(): known for known in names}
    lowered = name.casefold()
    completions = [known for known in by_case if known.startswith(lowered)] if len(lowered) > 2 else []
    matches = completions if len(completions) == 1 else get_close_matches(lowered, by_case, n=1, cutoff=0.65)
    return f"; did you mean {by_case[matches[0]]}?" if matches else ""
