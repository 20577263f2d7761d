"""``make gpu``: what a GPU changes, in one script of at most eight minutes.

    python tests/gpu/run.py [--parts losses,speed,base,training] [--minutes 8] [--out runs/gpu]

Parts: ``losses`` compares every loss with float64 on the CPU; ``training`` compares each method's training under DDP,
FSDP2, compiled, resumed, deterministic and in bf16 with the plain one; ``speed`` measures whole steps and the loader;
``base`` trains scenes-base for two minutes. ``OUT/results.json`` gets each row as soon as it is known. The same command
goes on where it stopped: rows that are there, from the same device, versions and code, are not measured again; other
results are moved to ``results-before.json``. A row that failed has its error, counts as a failure, and is tried again.

Without a GPU a miniature runs on the CPU, with the same rows: it shows that the script works, and measures nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms; read when CUDA starts

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from datamodules.atomic_write import write_text  # noqa: E402
from tests.gpu import base_rows, loss_rows, speed_rows, training_rows  # noqa: E402
from tests.gpu.row import Row  # noqa: E402

PARTS: dict[str, Callable[[torch.device], list[Row]]] = {
    "losses": loss_rows.rows,
    "speed": speed_rows.rows,
    "base": base_rows.rows,
    "training": training_rows.rows,
}
CODE = ("lightning_modules", "datamodules", "losses", "eval", "tests/gpu")


class Header(NamedTuple):
    """Where the numbers come from: rows of another header are not continued."""

    device: str
    miniature: bool
    torch: str
    cuda: str | None
    code: str


def header(device: torch.device) -> Header:
    """Of this machine and this code."""
    digest = hashlib.sha256()
    for folder in CODE:
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    return Header(name, not on_gpu, torch.__version__, torch.version.cuda if on_gpu else None, digest.hexdigest()[:16])


def previous_rows(file: Path, wanted: Header) -> dict[str, dict[str, Any]]:
    """Rows of ``file`` that need not be measured again; a file of another header is moved aside."""
    if not file.is_file():
        return {}
    results = json.loads(file.read_text(encoding="utf-8"))
    if results["header"] != wanted._asdict():
        file.replace(file.with_name("results-before.json"))
        return {}
    return {name: row for name, row in results["rows"].items() if "error" not in row}


def measure(rows: Sequence[Row], file: Path, minutes: float, device: torch.device, console: Console) -> dict[str, Any]:
    """Measure the rows that are not in ``file`` yet, one after the other; none is begun after ``minutes``."""
    start, head = time.monotonic(), header(device)
    done = previous_rows(file, head)
    for row in rows:
        if row.name in done:
            continue
        if time.monotonic() - start > 60 * minutes:
            break
        began = time.monotonic()
        try:
            done[row.name] = row.measure()
        except Exception as error:
            console.print(traceback.format_exc(), markup=False, highlight=False)
            done[row.name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        done[row.name]["row_seconds"] = round(time.monotonic() - began, 1)
        console.print(f"{row.name}: {shown(done[row.name])}", markup=False, highlight=False)
        results = {"header": head._asdict(), "rows": done}
        write_text(file, json.dumps(results, indent=2) + "\n")
    return done


def shown(numbers: dict[str, Any]) -> str:
    """The numbers of a row on one line."""
    return ", ".join(f"{name} {number(value)}" for name, value in numbers.items())


def number(value: Any) -> str:
    """A number for people."""
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def tables(rows: Sequence[Row], done: dict[str, dict[str, Any]], title: str) -> Iterator[Table]:
    """A table for each part."""
    for part in PARTS:
        names = [row.name for row in rows if row.name.startswith(f"{part}/") and row.name in done]
        if not names:
            continue
        columns = dict.fromkeys(column for name in names for column in done[name])
        table = Table(title=f"{part}: {title}", title_justify="left")
        table.add_column("", no_wrap=True)
        for column in columns:
            table.add_column(column.replace("_", " "), justify="right")
        for name in names:
            table.add_row(name.partition("/")[2], *(number(done[name].get(column, "")) for column in columns))
        yield table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, return 1 where a row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, in this order")
    parser.add_argument("--minutes", type=float, default=8.0, help="no row is begun later")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    given = parser.parse_args(arguments)
    parts = given.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts must be some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    console, device = Console(width=200, soft_wrap=True), torch.device(given.device)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    given.out.mkdir(parents=True, exist_ok=True)
    file, head = given.out / "results.json", header(device)
    if head.miniature:
        console.print("No GPU: a miniature of every row runs on the CPU. It shows that it works, and measures nothing.")
    rows = [row for part in parts for row in PARTS[part](device)]
    done = measure(rows, file, given.minutes, device, console)
    title = f"{head.device}, torch {head.torch}" + (", miniature" if head.miniature else "")
    for table in tables(rows, done, title):
        console.print(table)
    missing = [row.name for row in rows if row.name not in done]
    failed = [row.name for row in rows if "error" in done.get(row.name, {})]
    if missing:
        console.print(f"not reached in {given.minutes:g} minutes: {len(missing)} rows; the same command goes on")
    if failed:
        console.print(f"failed: {', '.join(failed)}")
    console.print(f"written: {file}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
