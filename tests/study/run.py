"""``make study``: the methods' claims in miniature, on the embedded data, from the files in ``configs/study``.

All rows of a study start from the same model, trained first and exported, or from scratch, and train by the same steps
with each seed. Runs go side by side, one thread each, so that a row and a seed give the same numbers on any number of
cores. A finished run is never done again, unless its command or the method's config has changed; one that was broken
off starts anew. At the end each row trains a few steps more, one row at a time, to tell what a step costs.
``runs/study`` holds the runs, ``results.json`` with all numbers, ``results.md`` with the tables, and the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eval.drawing.canvas import svg
from tests.study.figures import draw
from tests.study.rows import ROOT, Run, Study, all_studies, read_study
from tests.study.tables import Results, claims_table, markdown
from tests.study.training import fine_tune, step_cost, trained_start


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help=f"of {', '.join(all_studies())} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each row, from 0 (default: 3)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side (default: one a core)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study", help="folder (default: runs/study)")
    given = parser.parse_args()
    studies, out = [read_study(name) for name in given.studies or all_studies()], given.out.resolve()
    show = Console(soft_wrap=True).print
    starts = {}
    for study in studies:
        if study.start is not None:
            show(f"{study.name}: training what its rows start from, {study.start['name']}")
        starts[study.name] = trained_start(study, out)
    found = _fine_tuned(studies, given.seeds, given.jobs, out, {name: weights for name, (_, weights) in starts.items()})
    texts = []
    for study in studies:
        start, weights = starts[study.name]
        costs = {row: step_cost(Run(study, row, 0), out, weights) for row in study.rows}
        texts.append(markdown(study, start, found[study.name], costs))
        if study.claims:
            texts.append(claims_table(study, start, found[study.name]))
        for name, wanted in study.figures.items():
            (out / name).write_bytes(svg(draw(study, wanted, start, found[study.name])))
    (out / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "results.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    show("\n" + "\n\n".join(texts) + f"\n\nwritten: {out / 'results.md'}, {out / 'results.json'}")


def _fine_tuned(
    studies: list[Study], seeds: int, jobs: int, out: Path, weights: dict[str, Path | None]
) -> dict[str, Results]:
    """What all rows give, with all seeds."""
    runs = [Run(study, row, seed) for study in studies for seed in range(seeds) for row in study.rows]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {s.name: {row: [] for row in s.rows} for s in studies}
    show = Console(soft_wrap=True).print
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(fine_tune, run, out, weights[run.study.name]) for run in runs]
        try:
            for number, (run, future) in enumerate(zip(runs, waiting, strict=True), start=1):
                found[run.study.name][run.row].append(done := future.result())
                show(f"{number}/{len(runs)}  {run.study.name}, {run.row}, seed {run.seed}: {done['seconds']} s")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


if __name__ == "__main__":
    main()
