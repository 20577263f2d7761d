"""``make bench``: old beside new on the same work in one run.

Prints tables; ``runs/bench.json`` has the same numbers, and ``runs/bench_history.jsonl`` those of every time, a line
each. Old and new take turns, each in its own process, so that peak memory is its own; times are the best of several,
and ``spread`` is by how much the worst was above it. No test reads these numbers: machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SHARED_NLTK = Path(__file__).resolve().parents[3] / "shared" / "nltk_data"
if SHARED_NLTK.is_dir():
    os.environ.setdefault("NLTK_DATA", str(SHARED_NLTK))

from lightning_modules.cli.precision import best_precision  # noqa: E402
from tests.bench import (  # noqa: E402
    dashboard_work,
    data_work,
    loss_work,
    method_work,
    retrieval_work,
    text_work,
    tower_work,
)
from tests.bench.measure import cost, taking_turns, tensor_peak  # noqa: E402
from tests.bench.texts import captions  # noqa: E402

SIZES = (2048, 4096, 8192, 16384)


def against_the_old() -> list[dict[str, Any]]:
    """The work of a training step, and the whole step."""
    rows = [
        ("β-CAL CE, B=64", loss_work.beta_cal, ("ce", 64), 3, (1, 1 / 4)),
        ("β-CAL BCE, B=64", loss_work.beta_cal, ("bce", 64), 3, (1, 1 / 4)),
        ("β-CAL CE, B=256", loss_work.beta_cal, ("ce", 256), 2, (1 / 3, 1 / 10)),
        ("β-CAL BCE, B=256", loss_work.beta_cal, ("bce", 256), 2, (1 / 3, 1 / 10)),
        (f"text tower, {captions(1)[0]}", tower_work.text_tower, (), 2, (1 / 4, None)),
        ("ranking 1000 × 5000, old: torchmetrics' R@1", retrieval_work.ranking, (1000,), 2, (1 / 10, 1 / 4)),
        ("MulCLIP's step, old: its global terms", method_work.mulclip, (), 2, (1.25, None)),
        (f"step ViT-B/16, B=8, {best_precision('cpu')}", tower_work.step, (), 2, (1 / 2.5, None)),
    ]
    results = []
    for name, make, arguments, repeats, (time_target, memory_target) in rows:
        old, new = (cost(make, side, *arguments, repeats=repeats) for side in ("old", "new"))
        results.append(
            {
                "work": name,
                "old_seconds": old.seconds,
                "new_seconds": new.seconds,
                "time": new.seconds / old.seconds,
                "time_target": time_target,
                "old_mib": old.mib,
                "new_mib": new.mib,
                "memory": new.mib / max(old.mib, 1),
                "memory_target": memory_target,
                "spread": max(old.spread, new.spread),
            }
        )
    step = results[-1]["new_seconds"]
    share = tower_work.loss_share(repeats=5) / step
    results.append({"work": "both losses in that step", "new_seconds": share * step, "time": share, "time_target": 0.1})
    coco = cost(retrieval_work.ranking, "new", 5000, repeats=3)
    ranked = {"new_seconds": coco.seconds, "new_mib": coco.mib, "spread": coco.spread}
    results.append({"work": "ranking 5000 × 25,000 (targets: 3 s, 2048 MiB)", **ranked})
    return results


def growth() -> list[dict[str, Any]]:
    """Time and memory of every mode as the number of texts doubles; memory is that of the tensors, counted."""
    results = []
    for mode in loss_work.MODES:
        for size in SIZES:
            work = loss_work.growing(mode, size)
            mib, begin = tensor_peak(work), time.perf_counter()
            work()
            results.append({"mode": mode, "texts": size, "seconds": time.perf_counter() - begin, "mib": mib})
    return results


def regions() -> list[dict[str, Any]]:
    """A HarmoCLIP-style step beside its global term alone, as boxes and crops are added."""
    results = []
    for boxes, crops in method_work.COUNTS:
        found = cost(method_work.harmoclip, boxes, crops, repeats=2)
        results.append({"boxes": boxes, "crops": crops, "seconds": found.seconds, "mib": found.mib})
    return [row | {"time": row["seconds"] / results[0]["seconds"]} for row in results]


def data() -> list[dict[str, Any]]:
    """Samples a second of one core, usual beside ours."""
    rows = [
        ("reading 100 kB samples, old: webdataset", data_work.reading, (), data_work.READ, 5),
        ("1,024 px JPEG to 224 px, old: RandomResizedCrop", data_work.decoding, (1024,), data_work.DECODED, 3),
        ("whole loader, 512 px, old: webdataset, 1 text", data_work.loading, (512,), data_work.LOADED, 1.5),
        ("the same, tokens stored", data_work.loading, (512, True), data_work.LOADED, 1.5),
        ("whole loader, 1,024 px, old: webdataset, 1 text", data_work.loading, (1024,), data_work.LOADED, 1.5),
        ("captions to grains, old: NLTK's RegexpParser", text_work.grains, (), text_work.CAPTIONS, 1.2),
    ]
    results = []
    for name, make, arguments, samples, target in rows:
        old, new, spread = taking_turns(make, *arguments)
        rates = {"old_per_second": samples / old, "new_per_second": samples / new}
        results.append({"work": name, **rates, "faster": old / new, "target": target, "spread": spread})
    results[-1]["core hours for ShareGPT4V"] = text_work.core_hours(results[-1]["new_per_second"])
    return results


def loader_memory() -> list[dict[str, Any]]:
    """Growth of a loader's memory over 10,000 samples, once its caches are full."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        points = [(n / 1000, mib) for n, mib in pool.apply(data_work.memory) if n > 4096]
    slope, error = linear_fit(points)
    return [{"MiB at the end": points[-1][1], "MiB per 1,000 samples": slope, "noise": error}]


def linear_fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope of the least-squares line, and the root mean square distance from it."""
    x, y = (torch.tensor(values, dtype=torch.float64) for values in zip(*points, strict=True))
    line = torch.stack([x, torch.ones_like(x)], dim=1)
    fit = torch.linalg.lstsq(line, y[:, None]).solution
    return fit[0].item(), ((line @ fit)[:, 0] - y).square().mean().sqrt().item()


def linear_fit_error(points: list[tuple[float, float]]) -> float:
    """The largest distance of a point from the least-squares line, as a share of the point."""
    x, y = (torch.tensor(values, dtype=torch.float64) for values in zip(*points, strict=True))
    line = torch.stack([x, torch.ones_like(x)], dim=1)
    fitted = line @ torch.linalg.lstsq(line, y[:, None]).solution
    return ((fitted[:, 0] - y).abs() / y).max().item()


def show(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        table.add_row(*("" if c is None else f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells))
    console.print(table)


def surroundings() -> dict[str, Any]:
    """The machine, and the versions of what was measured."""
    model = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("grainclip", "torch", "lightning", "transformers", "timm", "webdataset")},
    }


def fits(sizes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Deviation of memory against N from a straight line."""
    points = {mode: [(r["texts"], r["mib"]) for r in sizes if r["mode"] == mode] for mode in loss_work.MODES}
    return [{"mode": mode, "largest error": linear_fit_error(own)} for mode, own in points.items()]


SECTIONS: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {  # of the JSON: the table's title, its rows
    "old_beside_new": ("old beside new", against_the_old),
    "growth": ("exact losses as N grows, D = 512", growth),
    "regions": (
        f"HarmoCLIP-style step, ViT-B/16, {method_work.IMAGES} images, boxes and crops of each",
        regions,
    ),
    "data": ("data, samples a second of one core", data),
    "loader_memory": ("memory of a loader over 10,000 samples with 36 texts", loader_memory),
    "dashboards": ("dashboards in a run of configs/beta_bce.yaml (target of the share: 0.02)", dashboard_work.share),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)} (default: all)")
    asked = parser.parse_args().sections or list(SECTIONS)
    if unknown := [name for name in asked if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    console, begin = Console(width=None if sys.stdout.isatty() else 150), time.perf_counter()
    numbers = surroundings()
    console.print(", ".join(f"{name} {value}" for name, value in numbers.items()))
    for name in asked:
        title, rows = SECTIONS[name]
        numbers[name] = rows()
        show(console, title, numbers[name])
        if name == "growth":
            numbers["linear_fit"] = fits(numbers[name])
            show(console, "memory against N: distance from a straight line (target: 0.1)", numbers["linear_fit"])
    numbers["seconds"] = time.perf_counter() - begin
    folder = Path("runs")
    folder.mkdir(exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(numbers, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with (folder / "bench_history.jsonl").open("a", encoding="utf-8") as history:
        history.write(json.dumps(numbers, ensure_ascii=False) + "\n")
    console.print(f"written after {numbers['seconds'] / 60:.0f} minutes: runs/bench.json, runs/bench_history.jsonl")


if __name__ == "__main__":
    main()
