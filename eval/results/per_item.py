"""Results item by item: for looking at errors, and for comparing models on the same items.

As Parquet files, for which pyarrow is needed, ``pandas.read_parquet(FILE)`` reads them.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.atomic_write import atomic_write


class Mean(NamedTuple):
    """The definition of a number by columns: the sum of ``value`` over that of ``weight`` within each group, then the
    mean over the groups that have any weight.

    With ``value`` alone it is the mean over rows (top-1), with a group the mean over groups (of classes, mAcc), and
    with a weight too the mean of ratios (intersection over union).
    """

    value: str
    weight: str | None = None
    group: str | None = None


class Items(NamedTuple):
    """A table, a row per query, question, box or whatever a number is a mean of.

    Args:
        columns: name to values, all of one length.
        means: how each number follows from the columns, by its name.
        cluster: the column whose equal values belong together (the five captions of an image are no five images);
            resampling draws clusters.
    """

    columns: dict[str, list[Any]]
    means: dict[str, Mean]
    cluster: str


def parquet() -> Any:
    """pyarrow and its Parquet. Raises ValueError, saying what to install, where it is missing."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError("Parquet files need pyarrow: pip install 'grainclip[parquet]'") from error


def write_items(folder: Path, tables: Mapping[str, Items]) -> list[Path]:
    """A file a table, ``urban1k_text_to_image.parquet``; which columns are means of which numbers stands in it."""
    arrow, writer = parquet()
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, items in tables.items():
        plain = re.sub(r"[^\w@.-]+", "_", name)
        file = folder / f"{plain}.parquet"
        said = {name: mean._asdict() for name, mean in items.means.items()}
        table = arrow.table(items.columns).replace_schema_metadata({"means": json.dumps(said)})
        with atomic_write(file) as draft:
            writer.write_table(table, draft)
        files.append(file)
    return files
