"""Pictures of a benchmark: all there before the work begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def present(listed: Sequence[tuple[Path, T]], source: Path, skip_missing: bool, counts: Counter[str]) -> list[T]:
    """The items whose file is there; the others are counted as "picture missing".

    Raises FileNotFoundError, naming ``source`` (the annotation file), where any is missing and that is not allowed.
    """
    missing = [file for file, _ in listed if not file.is_file()]
    if missing and not skip_missing:
        names = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"{len(missing)} of the {len(listed)} files of {source} are missing: {names} "
            "(--skip_missing leaves their pictures out, and counts them)"
        )
    if missing:
        counts["picture missing"] += len(missing)
    gone = set(missing)
    return [item for file, item in listed if file not in gone]
