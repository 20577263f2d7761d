"""Results of the mini-study into the repository: numbers and figures into ``results`` beside the study's file, tables
into the ``README.md`` there.

In the page each study stands between ``<!-- study: NAME -->`` and ``<!-- end of study -->``.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tests.study.record import Numbers, Record, configs_digest, from_json, to_json
from tests.study.rows import Run, Study, read_study
from tests.study.tables import section

RESULTS = Path("results", "results.json")  # beside a page
BLOCK = re.compile(r"(<!-- study: (\S+) -->\n).*?(<!-- end of study -->)", re.DOTALL)


def publish(found: list[tuple[Study, Record]], drawn: Path) -> None:
    """Take over the results of these studies and their figures, which lie in the folder ``drawn``."""
    for folder in {study.folder for study, _ in found}:
        results = folder / RESULTS
        results.parent.mkdir(exist_ok=True)
        known = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
        known |= {study.name: to_json(study, record) for study, record in found if study.folder == folder}
        results.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        page = folder / "README.md"
        page.write_text(filled(page), encoding="utf-8")
    for study, _ in found:
        for name in study.figures:
            shutil.copyfile(drawn / name, (study.folder / RESULTS).parent / name)


def published(study: Study) -> dict[str, list[Numbers]]:
    """Of each row the seeds that are published, by this study or another that measures alike and shows as much.

    Rows whose fields or configs have changed since have none.
    """
    results = study.folder / RESULTS
    known = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    found: dict[str, list[Numbers]] = {}
    for name, own in known.items():
        other = read_study(name)
        if set(study.shown()) <= set(other.shown()) and _measured_by(study) == _measured_by(other):
            for row in own["rows"].values():
                key = _key(row["config"], row["fields"], row.get("configs"))
                found[key] = max(found.get(key, []), row["seeds"], key=len)
    asked = {row: (Run(study, row, 0), configs_digest(study, row)) for row in study.rows}
    return {row: found.get(_key(run.config(), run.settings(), digest), []) for row, (run, digest) in asked.items()}


def _measured_by(study: Study) -> tuple[object, ...]:
    return study.start, study.split, study.benchmarks, study.recipe


def _key(*asked: object) -> str:
    return json.dumps(asked, sort_keys=True)


def filled(page: Path) -> str:
    """The text of a page with every study's results as they are kept, or the word that it has not been run.

    Raises:
        ValueError: where a study has changed since its results were taken over.
    """
    results = page.parent / RESULTS
    known = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    place = RESULTS.parent.as_posix() + "/"

    def fill(block: re.Match[str]) -> str:
        study = read_study(block[2])
        shown = f"Not run yet: `make study STUDIES={study.name}`."
        if study.name in known:
            shown = section(study, from_json(study, known[study.name]), place)
        return f"{block[1]}\n{shown}\n\n{block[3]}"

    return BLOCK.sub(fill, page.read_text(encoding="utf-8"))
