"""Results of the mini-study into the repository: numbers and figures into ``configs/study/results``, tables into
``configs/study/README.md``.

In the page each study stands between ``<!-- study: NAME -->`` and ``<!-- end of study -->``.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tests.study.record import Record, from_json, to_json
from tests.study.rows import STUDIES, Study, read_study
from tests.study.tables import section

PAGE = STUDIES / "README.md"
RESULTS = STUDIES / "results"
BLOCK = re.compile(r"(<!-- study: (\S+) -->\n).*?(<!-- end of study -->)", re.DOTALL)


def publish(found: list[tuple[Study, Record]], drawn: Path) -> None:
    """Take over the results of these studies and their figures, which lie in the folder ``drawn``."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "results.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known |= {study.name: to_json(study, record) for study, record in found}
    file.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for study, _ in found:
        for name in study.figures:
            shutil.copyfile(drawn / name, RESULTS / name)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str) -> str:
    """The page with every study's results as they are kept, or the word that it has not been run.

    Raises:
        ValueError: where a study has changed since its results were taken over.
    """
    known = json.loads((RESULTS / "results.json").read_text(encoding="utf-8"))
    place = RESULTS.relative_to(PAGE.parent).as_posix() + "/"

    def fill(block: re.Match[str]) -> str:
        study = read_study(block[2])
        shown = f"Not run yet: `make study STUDIES={study.name}`."
        if study.name in known:
            shown = section(study, from_json(study, known[study.name]), place)
        return f"{block[1]}\n{shown}\n\n{block[3]}"

    return BLOCK.sub(fill, page)
