"""Results of the mini-study into the repository: numbers and figures into ``results`` beside the study's file, tables
into the ``README.md`` there.

In the page each study stands between ``<!-- study: NAME -->`` and ``<!-- end of study -->``.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tests.study.record import Record, from_json, to_json
from tests.study.rows import Study, read_study
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
