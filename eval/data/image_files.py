"""Images of a benchmark: all there before the work begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def present(listed: Sequence[tuple[Path, T]], source: Path, skip_missing: bool, counts: Counter[str]) -> list[T]:
    """The items whose file is there; the files that are not are counted as "image missing", and where several items
    share a file, these as "item of a missing image".

    Raises FileNotFoundError, naming ``source`` (the annotation file), where any is missing and that is not allowed.
    """
    files = dict.fromkeys(file for file, _ in listed)
    missing = [file for file in files if not file.is_file()]
    if missing and not skip_missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(files)} files of {source} are missing, such as {missing[0]} "
            "(--skip_missing leaves them out, and counts them)"
        )
    gone = set(missing)
    kept = [item for file, item in listed if file not in gone]
    if missing:
        counts["image missing"] += len(missing)
    if (items := len(listed) - len(kept)) > len(missing):
        counts["item of a missing image"] += items
    return kept
