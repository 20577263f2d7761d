"""The mini-study's tables: mean and spread of each row, and what became of the papers' claims."""

from __future__ import annotations

from math import sqrt
from statistics import mean, stdev

from tests.study.record import Numbers, Record
from tests.study.rows import Study

MARGIN = 1  # point that a row which is "not below" another may lose


def values(study: Study, column: str, runs: list[Numbers], start: Numbers | None) -> list[float]:
    """A column's percentage in each run that has it. Of a list of names: their mean, as a share of the start's."""
    names = study.columns[column]
    if isinstance(names, str):
        return [100 * run[names] for run in runs if names in run]
    if start is None:
        raise ValueError(f"a share of the start's {', '.join(names)} needs a study with a start")
    before = mean(start[name] for name in names)
    return [100 * mean(run[name] for name in names) / before for run in runs]


def cell(percent: list[float]) -> str:
    """Mean and standard deviation over the seeds; a dash where no run has the number."""
    if len(percent) > 1:
        return f"{mean(percent):.1f} ± {stdev(percent):.1f}"
    return f"{percent[0]:.1f}" if percent else "–"


def results_table(study: Study, record: Record) -> str:
    """A study's rows; the last column, where steps were timed, is what a step costs, the cheapest row's being 1."""
    headings = [*study.columns, *(["step"] if record.steps else [])]
    lines = [f"| | {' | '.join(headings)} |", f"|---|{'---|' * len(headings)}"]
    cheapest = min(record.steps.values(), default=1.0)
    for row, runs in record.with_start().items():
        cells = [cell(values(study, column, runs, record.start)) for column in study.columns]
        if record.steps:
            cells.append(f"{record.steps[row] / cheapest:.2f}" if row in record.steps else "")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(study: Study, claim: dict[str, str], record: Record) -> tuple[str, str]:
    """ "seen", "not seen" or "reversed", open with one seed, and the difference in points with its standard error.

    A difference counts where it is larger than twice its standard error over the seeds. That a row is ``not_below``
    another is seen where, within twice that error, it loses less than ``MARGIN``, and reversed where it loses more.
    """
    keeps = "not_below" in claim
    ours, theirs = (
        values(study, claim["column"], record.rows[row], record.start)
        for row in (claim["row"], claim["not_below" if keeps else "over"])
    )
    difference = mean(ours) - mean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return "open: one seed", f"{difference:+.1f}"
    error = sqrt(sum(stdev(found) ** 2 / len(found) for found in (ours, theirs)))
    least = -MARGIN if keeps else 0
    seen, reversed_ = difference - 2 * error > least, difference + 2 * error < least
    word = "seen" if seen else "reversed" if reversed_ else "not seen"
    return word, f"{difference:+.1f} ± {error:.1f}"


def claims_table(study: Study, record: Record) -> str:
    """The paper's claims, and whether they hold here."""
    lines = ["| claim | here | measured by | difference |", "|---|---|---|---|"]
    for text, claim in study.claims.items():
        word, difference = verdict(study, claim, record)
        lines.append(f"| {text} | {word} | {claim['column']} | {difference} |")
    return "\n".join(lines)


def section(study: Study, record: Record, figures: str) -> str:
    """All that a reader is shown of a study; its figures lie in the folder ``figures``."""
    parts = [results_table(study, record), *([study.learned.strip()] if study.learned else [])]
    if study.claims:
        parts.append(claims_table(study, record))
    parts += [f"![{wanted['title']}]({figures}{name})" for name, wanted in study.figures.items()]
    return "\n\n".join(parts)
