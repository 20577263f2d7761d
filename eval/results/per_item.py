"""Per-item results, to inspect errors and to compare models on the same items.

They are written as Parquet, which needs pyarrow; ``pandas.read_parquet(FILE)`` reads them.
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
    """A number defined by columns: the sum of ``value`` divided by that of ``weight`` within each group, then the mean
    over the groups whose weight is not 0.

    With ``value`` alone it is the mean over rows (top-1), with a group the mean over groups (classes: mAcc), and with a
    weight too the mean of ratios (intersection over union).
    """

    value: str
    weight: str | None = None
    group: str | None = None


class Items(NamedTuple):
    """A table with a row per query, question, box or other item that numbers are means of.

    Args:
        columns: values by name, all of one length.
        means: the definition of each number, by its name.
        cluster: the column whose equal values belong together (the five captions of an image are no five images);
            resampling draws clusters.
    """

    columns: dict[str, list[Any]]
    means: dict[str, Mean]
    cluster: str


def parquet() -> Any:
    """The modules pyarrow and pyarrow.parquet. Raises ValueError, with the command to install them, where they are
    missing.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError("Parquet files need pyarrow: pip install 'grainclip[parquet]'") from error


def write_items(folder: Path, tables: Mapping[str, Items]) -> list[Path]:
    """Write a file for each table, ``urban1k_text_to_image.parquet``; its metadata defines the numbers by columns."""
    arrow, writer = parquet()
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, items in tables.items():
        plain = re.sub(r"[^\w@.-]+", "_", name)
        file = folder / f"{plain}.parquet"
        means = {name: mean._asdict() for name, mean in items.means.items()}
        table = arrow.table(items.columns).replace_schema_metadata({"means": json.dumps(means)})
        with atomic_write(file) as draft:
            writer.write_table(table, draft)
        files.append(file)
    return files
