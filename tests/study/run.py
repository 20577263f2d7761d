"""``make study``: the methods' claims in miniature, on the embedded data, from the files in ``configs/study``.

All rows of a study start from the same model, or from scratch, and train by the same steps with each seed; then each is
measured once on the held-out scenes (``measure.py``). Runs go side by side, one thread each, so that a row and a seed
give the same numbers on any number of cores. A finished run is never done again, unless its command or the method's
config has changed; one that was broken off starts anew. At the end each row trains a few steps more, one row at a time,
to tell what a step costs. ``runs/study`` holds the runs, ``results.json`` with all numbers, ``results.md`` with the
tables, and the figures; ``--publish`` takes numbers, tables and figures over into ``configs/study``. ``--add`` goes on
from what is published there, where settings and configs have not changed: on another machine, or for more seeds.

``configs/study/search`` has the searches by which settings were chosen, measured on the dev scenes: ``search/mulclip``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eval.drawing.canvas import svg
from tests.study.figures import draw
from tests.study.publish import publish, published
from tests.study.record import Numbers, Record, kept, to_json
from tests.study.rows import ROOT, Run, Study, all_studies, read_study, studies_of_scenes
from tests.study.tables import section
from tests.study.training import fine_tune, prepare_photographs, start_numbers, step_cost


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"of {', '.join(all_studies())}, search/NAME (default: those of scenes)"
    parser.add_argument("studies", nargs="*", help=names)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each row, from 0 (default: 3)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side (default: one a core)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study", help="folder (default: runs/study)")
    parser.add_argument("--root", type=Path, help="the folder of flickr8k/, for the study of photographs")
    parser.add_argument("--add", action="store_true", help="train what has changed or is not published, keep the rest")
    parser.add_argument("--publish", action="store_true", help="take the results over into the README")
    given = parser.parse_args()
    studies, out = [read_study(name) for name in given.studies or studies_of_scenes()], given.out.resolve()
    root = None if given.root is None else given.root.resolve()
    if any(study.of_photographs for study in studies):
        if root is None:
            parser.error("--root must name the folder of flickr8k/ for the study of photographs")
        prepare_photographs(out, root)
    show = Console(soft_wrap=True).print
    starts = {study.name: start_numbers(study, out) for study in studies}
    known = {study.name: published(study) for study in studies} if given.add else {}
    rows = _fine_tuned(studies, given.seeds, given.jobs, out, root, known)
    found = []
    for study in studies:
        start, steps = starts[study.name], {}
        for row in study.rows if study.timed else ():
            show(f"{study.name}, {row}: what a step takes")
            steps[row] = step_cost(Run(study, row, 0), out)
        found.append((study, Record(None if start is None else kept(study, start), rows[study.name], steps)))
        for name, wanted in study.figures.items():
            (out / name).write_bytes(svg(draw(study, wanted, found[-1][1])))
    record = json.dumps({study.name: to_json(study, one) for study, one in found}, indent=1, ensure_ascii=False)
    (out / "results.json").write_text(record, encoding="utf-8")
    text = "\n\n".join(f"## {study.name}\n\n{section(study, one, '')}" for study, one in found)
    (out / "results.md").write_text(text + "\n", encoding="utf-8")
    if given.publish:
        publish(found, out)
    show(f"\n{text}\n\nwritten: {out / 'results.md'}, {out / 'results.json'}")


def _fine_tuned(
    studies: list[Study],
    seeds: int,
    jobs: int,
    out: Path,
    root: Path | None = None,
    known: dict[str, dict[str, list[Numbers]]] | None = None,
) -> dict[str, dict[str, list[Numbers]]]:
    """Of each study's rows the numbers that it shows, with all seeds; those ``known``, from seed 0, are not trained."""
    found: dict[str, dict[str, list[Numbers]]] = {}
    for study in studies:
        seeds_known = (known or {}).get(study.name, {})
        found[study.name] = {row: [kept(study, one) for one in seeds_known.get(row, [])] for row in study.rows}
    runs = [
        Run(study, row, seed)
        for study in studies
        for seed in range(seeds)
        for row in study.rows
        if seed >= len(found[study.name][row])
    ]
    show = Console(soft_wrap=True).print
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(fine_tune, run, out, root) for run in runs]
        try:
            for number, (run, future) in enumerate(zip(runs, waiting, strict=True), start=1):
                done = future.result()
                found[run.study.name][run.row].append(kept(run.study, done["numbers"]))
                show(f"{number}/{len(runs)}  {run.study.name}, {run.row}, seed {run.seed}: {done['seconds']} s")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


if __name__ == "__main__":
    main()
