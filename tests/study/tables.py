"""The mini-study's tables: mean and spread of each row, and what became of the papers' claims."""

from __future__ import annotations

from math import sqrt
from statistics import mean, stdev
from typing import Any

from tests.study.rows import Study

Results = dict[str, list[dict[str, Any]]]  # of each row, what its seeds gave
Start = dict[str, Any] | None  # what the model gives that all rows start from; None: they train from scratch


def with_start(start: Start, done: Results) -> Results:
    """The rows, below the model that they start from."""
    return done if start is None else {"what all start from": [start], **done}


def numbers(column: str | list[str], runs: list[dict[str, Any]], start: Start) -> list[float]:
    """A column's number of each run that has it. Of a list of names: their mean, as a share of the start's."""
    if isinstance(column, str):
        return [run["numbers"][column] for run in runs if column in run["numbers"]]
    if start is None:
        raise ValueError(f"a share of the start's {', '.join(column)} needs a study with a start")
    before = mean(start["numbers"][name] for name in column)
    return [mean(run["numbers"][name] for name in column) / before for run in runs]


def cell(found: list[float]) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    percent = [100 * number for number in found]
    return f"{mean(percent):.1f} ± {stdev(percent):.1f}" if len(percent) > 1 else f"{percent[0]:.1f}"


def markdown(study: Study, start: Start, done: Results, costs: dict[str, float]) -> str:
    """A study's table; the last column is what a step costs, beside the cheapest row's."""
    lines = [f"| {study.name} | {' | '.join(study.columns)} | step |", f"|---|{'---|' * len(study.columns)}---|"]
    cheapest = min(costs.values())
    for row, runs in with_start(start, done).items():
        cells = [numbers(column, runs, start) for column in study.columns.values()]
        cost = f"{costs[row] / cheapest:.2f}" if row in costs else ""
        lines.append(f"| {row} | {' | '.join(cell(found) if found else '–' for found in cells)} | {cost} |")
    return "\n".join(lines)


def verdict(study: Study, claim: dict[str, str], start: Start, done: Results) -> tuple[str, str]:
    """ "seen", "not seen" or "reversed", and the difference in points with its standard error.

    A difference counts where it is larger than twice its standard error over the seeds. A row is ``not_below`` another
    unless it is lower by such a difference.
    """
    column = study.columns[claim["column"]]
    keeps = "not_below" in claim
    ours, theirs = (
        [100 * number for number in numbers(column, done[row], start)]
        for row in (claim["row"], claim["not_below" if keeps else "over"])
    )
    difference = mean(ours) - mean(theirs)
    error = sqrt(sum(stdev(values) ** 2 / len(values) if len(values) > 1 else 0.0 for values in (ours, theirs)))
    higher, lower = difference > 2 * error, difference < -2 * error
    word = "reversed" if lower else "seen" if higher or keeps else "not seen"
    return word, f"{difference:+.1f} ± {error:.1f}"


def claims_table(study: Study, start: Start, done: Results) -> str:
    """What the paper says, and whether it shows here."""
    lines = ["| claim | | measured by | difference |", "|---|---|---|---|"]
    for text, claim in study.claims.items():
        word, difference = verdict(study, claim, start, done)
        lines.append(f"| {text} | {word} | {claim['column']} | {difference} |")
    return "\n".join(lines)
