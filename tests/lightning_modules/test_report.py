"""``lightning report``: one page with everything that runs left, and nothing from elsewhere."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from eval.drawing.curves import curves_figure
from lightning_modules.boards.layout import is_fraction
from lightning_modules.boards.run_logs import read_run
from lightning_modules.cli.main import main
from tests.datamodules.test_atomic_write import full_disk


def write_run(folder, beta=0.5, runs=3, recall=0.25, picture=True):
    """A run's folder as training leaves it."""
    writer = SummaryWriter(str(folder))
    for step in range(runs):
        writer.add_scalar("train/loss", 3.0 / (step + 1), step)
        writer.add_scalar("train/loss_global", 1.0, step)
        writer.add_scalar("unknown/number", 1.0, step)
        if picture:
            writer.add_image("attention/sample 1", torch.full((3, 8, 8), 0.25 * step), step)
            writer.add_image("gallery/wide", torch.full((3, 8, 900), 0.25 * step), step)
    writer.close()
    numbers = {"caption/text_to_image/R@1": recall, "caption/text_to_image/chance": 0.01}
    (folder / "results.json").write_text(json.dumps({"numbers": numbers, "settings": {}}))
    model = {"init_args": {"beta": beta, "note": "<i>x</i>", "list": [1, 2], "none": None}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "callbacks": [{"class_path": "a.B"}]}))
    return folder


def report(tmp_path, *folders):
    page = tmp_path / "report.html"
    assert main(["report", *map(str, folders), "--out", str(page)]) == 0
    return page.read_text(encoding="utf-8")


def test_a_run_is_read_back(tmp_path):
    run = read_run(write_run(tmp_path / "a"), "a")
    assert run.scalars["train/loss"] == [(0, 3.0), (1, 1.5), (2, 1.0)]
    step, png = run.images["attention/sample 1"]
    assert step == 2
    assert png.startswith(b"\x89PNG")
    assert run.config["model.init_args.beta"] == "0.5"
    assert run.config["model.init_args.list"] == "[1, 2]"
    assert run.config["callbacks[0].class_path"] == '"a.B"'


def test_two_runs_side_by_side(tmp_path):
    html = report(tmp_path, write_run(tmp_path / "a"), write_run(tmp_path / "b", beta=0.75, recall=0.5))
    assert "<script" not in html
    sources = re.findall(r"""(?:src|href)=["']([^"',;]+)""", html)
    links = [source[1:] for source in sources if source.startswith("#")]
    assert {source.partition(":")[0] for source in sources if source[0] != "#"} == {"data"}
    assert links == re.findall(r'<h2 id="([^"]+)">', html)
    assert links == ["last-validation", "losses", "images-attention", "images-gallery", "settings-that-differ"]
    assert html.count("data:image/png") == 4  # the last images of each run
    assert re.findall(r'<figure class="(\w+) whole"><img alt="([\w/ ]+)"', html) == [
        *[("column", "attention/sample 1")] * 2, *[("row", "gallery/wide")] * 2
    ]  # fmt: skip
    assert html.count("data:image/svg+xml") == 1  # the chart of losses; nothing else was logged
    assert '<td>caption · text to image · R@1</td><td class="number">25.0%</td><td class="number">50.0%</td>' in html
    differing = html[html.index("Settings that differ") : html.index("<details><summary>4 settings")]
    assert "<td>model.<wbr>init_args.<wbr>beta</td>" in differing
    assert '<td class="value">0.5</td><td class="value">0.75</td>' in differing
    assert "note" not in differing
    assert "&lt;i&gt;x&lt;/i&gt;" in html
    assert "<i>" not in html


def test_a_run_has_its_colour_and_its_name_in_every_chart():
    alone = curves_figure({("b", "train/loss"): [(0, 1.0), (5, 2.0)]}, "t", ["a", "b"])
    both = curves_figure({(run, "train/loss"): [(0, 1.0), (5, 2.0)] for run in "ab"}, "t", ["a", "b"])
    (line,) = alone.axes[0].get_lines()
    assert line.get_label() == "b · train/loss"
    assert line.get_color() == both.axes[0].get_lines()[1].get_color() != both.axes[0].get_lines()[0].get_color()


def test_fractions_are_in_percent():
    tags = {
        "val/caption/text_to_image/R@1": True, "val/boxes/top5": True, "val/hard_negatives/hard/accuracy": True,
        "data/padding_share": True, "throughput/data_wait_fraction": True, "retention/caption": True,
        "train/loss": False, "data/skipped": False, "geometry/alignment": False, "throughput/teraflops": False,
    }  # fmt: skip
    assert {tag: is_fraction(tag) for tag in tags} == tags
    for percent, label in ((True, "50%"), (False, "0.5")):
        ax = curves_figure({("a", "x"): [(0, 0.25), (5, 0.75)]}, "t", percent=percent).axes[0]
        assert ax.yaxis.get_major_formatter().format_ticks([0.25, 0.5, 0.75])[1].startswith(label)


def test_one_run_and_runs_that_left_little(tmp_path):
    assert "Settings</h2>" in report(tmp_path, write_run(tmp_path / "a"))
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text("trainer: {max_epochs: 1}")
    html = report(tmp_path, bare, write_run(tmp_path / "one", runs=1, picture=False))
    assert "Images" not in html
    assert "–" in html


def test_a_full_disk_leaves_the_page_before(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    before = report(tmp_path, run)
    with full_disk(), pytest.raises(SystemExit):
        report(tmp_path, run)
    assert "report.html" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["missing"], "a run must be the folder of its logs"),
        (["empty"], "holds no run: no event files, no results.json, no config.yaml"),
        (["begun"], "begun holds event files, but nothing has been logged in them yet"),
        (["a", "a"], "a run must be named once"),
        (["damaged"], "results.json or config.yaml is damaged"),
    ],
)
def test_refusals(tmp_path, runs, message, capsys):
    write_run(tmp_path / "a", picture=False)
    (tmp_path / "empty").mkdir()
    SummaryWriter(str(tmp_path / "begun")).close()
    (write_run(tmp_path / "damaged", picture=False) / "results.json").write_text("[1]")
    with pytest.raises(SystemExit):
        main(["report", *(str(tmp_path / run) for run in runs), "--out", str(tmp_path / "x.html")])
    assert message in capsys.readouterr().err
