"""``lightning explain``: the maps drawn are the model's own, and the page needs nothing but itself."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from lightning_modules import ClipFinetune
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.cli.evaluate import load_model
from lightning_modules.cli.explain import explain
from lightning_modules.cli.main import main
from lightning_modules.networks import DualEncoder
from lightning_modules.networks.normalize import unit
from tests.helpers.tiny import picture, turned_away
from tests.helpers.tiny_run import TINY, fit

TEXTS = ["a red cube", "the ball", "a red cube. it stands left of a ball."]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained β-CLIP checkpoint, its model exported, and a picture."""
    folder = tmp_path_factory.mktemp("run")
    fit(folder, epochs=1, pooling_heads=2)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    assert main(["export", str(checkpoint), str(folder / "exported")]) == 0
    (folder / "picture.jpg").write_bytes(picture(1, 60, 40))
    return folder


def test_attention_drawn_is_the_pooling_blocks(run):
    checkpoint = run / "checkpoints" / "last.ckpt"
    model, _ = load_model(str(checkpoint), torch.device("cpu"))
    image = Image.open(run / "picture.jpg").convert("RGB")
    heat, cosines = explain(model, image, TEXTS)
    weights = heat.maps / heat.maps.shape[1]
    torch.testing.assert_close(weights.sum(1), torch.ones(len(TEXTS)))

    saved = torch.load(checkpoint, weights_only=True)
    state = {name: weight.double() for name, weight in saved["state_dict"].items()}
    pixels = torch.tensor(list(image.resize((16, 16), Image.Resampling.BICUBIC).tobytes())).view(16, 16, 3)
    seen = model.encode_image(pixels.permute(2, 0, 1)[None].to(torch.uint8))
    patches, texts = unit(seen.tokens[0].double()), model.encode_text(TEXTS).double()
    w, b = state["pooling.attn.in_proj_weight"], state["pooling.attn.in_proj_bias"]
    width, heads = len(b) // 3, saved[KEY]["settings"]["pooling_heads"]
    size = width // heads
    for text, row in zip(texts, weights, strict=True):
        mean = torch.zeros(len(patches), dtype=torch.float64)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            q = w[:width][part] @ text + b[:width][part]
            k = patches @ w[width : 2 * width][part].T + b[width : 2 * width][part]
            mean += torch.softmax(k @ q / size**0.5, dim=0) / heads
        torch.testing.assert_close(row.double(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.tensor(cosines), (texts @ seen.image[0].double()).float())


@pytest.mark.parametrize("source", ["checkpoints/last.ckpt", "exported"])
def test_the_page_holds_all_it_needs(run, source, capsys):
    page = run / "new" / "folder" / "page.html"
    texts = [argument for text in [*TEXTS, "<b>$x_1$ & 'y'</b>", "word " * 200] for argument in ("--text", text)]
    given = ["explain", "--model", str(run / source), "--image", str(run / "picture.jpg"), "--out", str(page)]
    assert main([*given, *texts]) == 0
    assert "written" in capsys.readouterr().out
    html = page.read_text(encoding="utf-8")
    assert html.count("<figure") == html.count("<figcaption>") == 1 + 5
    assert set(re.findall(r"""(?:src|href)=["']([^"',]{0,22})""", html)) == {"data:image/png;base64", "data:"}
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;$x_1$ &amp; &#39;y&#39;&lt;/b&gt;" in html
    assert "202 tokens, it reads 77" in html
    peaks = re.findall(r"<br>peak ([\d.e-]+) · ", html)
    assert len(peaks) == 5
    assert "its lowest" in html
    assert ("Model: exported" if source == "exported" else f"Model: {run.name}-last, BetaClip after 3 steps") in html
    assert ("no text-conditioned attention" in html) == (source == "exported")


def test_an_image_that_is_stored_turned_is_explained_upright(run, tmp_path):
    upright, pages = Image.open(run / "picture.jpg").convert("RGB"), []
    for turn in (1, 6):
        (tmp_path / "image.png").write_bytes(turned_away(upright, turn, "PNG"))
        given = ["--model", str(run / "exported"), "--image", str(tmp_path / "image.png"), "--text", "a ball"]
        assert main(["explain", *given, "--out", str(tmp_path / "page.html")]) == 0
        pages.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]


def test_other_clips_are_explained_by_similarity(run):
    model, _ = load_model(str(run / "exported"), torch.device("cpu"))
    image = Image.open(run / "picture.jpg").convert("RGB")
    heat, _ = explain(model, image, TEXTS)
    assert heat.measure == "cosine of patch and text"
    assert isinstance(model.encoder, DualEncoder)
    assert heat.maps.shape == (3, 4)
    assert heat.maps.abs().max() <= 1.0001


def test_a_checkpoint_of_a_method_without_attention(tmp_path):
    fit(tmp_path, epochs=1, method=ClipFinetune)
    model, words = load_model(str(tmp_path / "checkpoints" / "last.ckpt"), torch.device("cpu"))
    assert words["method"] == "ClipFinetune"
    assert model.encoder.config == TINY
    heat, _ = explain(model, Image.new("RGB", (20, 30)), ["x"])
    assert heat.measure == "cosine of patch and text"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--text": " "}, "--text must be one or more texts that are not empty"),
        ({"--image": "nothing.jpg"}, "nothing.jpg is not an image"),
        ({"--model": "nothing.ckpt"}, "nothing.ckpt: no such checkpoint"),
        (
            {"--out": "/dev/null/page.html"},
            "must be a folder that can be written to, got /dev/null",
        ),
        ({"--out": "."}, "--out must be a file, got the folder ."),
        ({"--device": "moon"}, "--device must be a device that is here"),
    ],
)
def test_refusals(run, change, message, capsys):
    given = {"--model": str(run / "exported"), "--image": str(run / "picture.jpg"), "--text": "x"}
    given |= {"--out": str(run / "refused.html"), "--device": "cpu"} | change
    with pytest.raises(SystemExit) as stopped:
        main(["explain", *(word for pair in given.items() for word in pair)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
