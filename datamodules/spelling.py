"""Did you mean: the known name nearest to a misspelt or shortened one, for the end of an error's line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean NAME?"`` with the nearest of ``names`` where one is near, else ``""``."""
    by_case = {one.casefold(): one for one in names}
    short = name.casefold()
    begun = [one for one in by_case if one.startswith(short)] if len(short) > 2 else []
    near = begun if len(begun) == 1 else get_close_matches(short, by_case, n=1, cutoff=0.65)
    return f"; did you mean {by_case[near[0]]}?" if near else ""
