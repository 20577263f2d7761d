"""The web pages in headless Chromium, on a wide and a narrow screen; skips where there is none."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch
from PIL import Image

from eval.drawing.page import png_of
from lightning_modules.boards.run_logs import RunFiles
from lightning_modules.cli.explain import explain_page
from lightning_modules.cli.report import report_page
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import DualEncoder
from tests.helpers.tiny_run import TINY

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs Chromium")]


def explained():
    model = EvaluationModel(DualEncoder(TINY), torch.device("cpu"))
    return explain_page(model, "a model", Image.new("RGB", (60, 40), "red"), ["a cube", "word" * 50], "red.png")


def reported():
    curve = [(step, 1 / (step + 1)) for step in range(5)]
    images = {"attention/sample 1": (5, png_of(Image.new("RGB", (300, 100))))}
    settings = {"model.init_args." + "long_" * 12 + "name": '"' + "value/" * 20 + '"'}
    numbers = {"caption/text_to_image/R@1": 0.5}
    one = RunFiles("runs/one_with_a_name_that_is_not_short", {"train/loss": curve}, images, numbers, settings)
    return report_page([one, one._replace(name="two", config={})])


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("make", [explained, reported])
def test_nothing_is_complained_of_and_nothing_is_wider_than_the_screen(make, width, tmp_path):
    told = f"<style>html {{ width: {width}px }}</style>"  # a window has no less than 500 pixels
    told += "<script>addEventListener('load', () => document.title = 'width ' + document.body.scrollWidth)</script>"
    html = make()
    assert "<script" not in html
    page = tmp_path / "page.html"
    page.write_text(html.replace("</head>", f"{told}</head>"), encoding="utf-8")
    assert BROWSER is not None
    seen = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert "CONSOLE" not in seen.stderr
    title = seen.stdout[seen.stdout.index("<title>") + 7 : seen.stdout.index("</title>")]
    assert int(title.removeprefix("width ")) <= width
