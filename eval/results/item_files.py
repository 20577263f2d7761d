"""Items as Parquet files, for looking at errors: ``pandas.read_parquet(FILE)``. Needs pyarrow."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.atomic_write import atomic_write
from eval.results.per_item import Items


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
