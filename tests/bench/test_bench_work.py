"""The benchmarks' work in small: what the packages rename, it follows."""

from __future__ import annotations

import sys

import pytest

from tests.bench import dashboard_work, data_work, loss_work, retrieval_work, run, text_work

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("side", ["old", "new"])
@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (data_work.reading, ()),
        (data_work.decoding, (64,)),
        (data_work.loading, (64,)),
        (data_work.loading, (64, True)),
        (text_work.grains, ()),
        (loss_work.beta_cal, ("ce", 4)),
        (loss_work.beta_cal, ("bce", 4)),
        (retrieval_work.ranking, (20,)),
    ],
)
def test_both_sides_of_a_comparison_work(monkeypatch, request, make, arguments, side):
    if make is text_work.grains:
        request.getfixturevalue("nltk_data")
    for name in ("READ", "DECODED", "LOADED"):
        monkeypatch.setattr(data_work, name, 64)
    make(side, *arguments)()


def test_the_memory_of_the_data_path_is_measured():
    assert [samples for samples, _ in data_work.memory(samples=1024)] == [512, 1024]


def test_every_part_of_the_dashboards_takes_time():
    *parts, step, _ = dashboard_work.share()
    assert [row["part"] for row in parts] == list(dashboard_work.TIMES)
    assert all(row["seconds"] > 0 for row in [*parts, step])


def test_an_unknown_section_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "speed"])
    with pytest.raises(SystemExit):
        run.main()
    assert "no section speed; there are old_beside_new, growth" in capsys.readouterr().err
