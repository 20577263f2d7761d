"""``--format onnx``: embeddings by onnxruntime, tokenizers, numpy and pillow alone, beside ours."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'grainclip[onnx]'")

from eval.data.image_preprocessing import centre_crop
from eval.protocols.embed import as_pixels
from lightning_modules import ClipFinetune
from lightning_modules.cli.export import export
from lightning_modules.cli.main import main
from lightning_modules.cli.read_checkpoint import encoder_of, read
from lightning_modules.inference import onnx_export
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.inference.onnx_export import check_onnx, compare, save_onnx
from lightning_modules.networks import DualEncoder, EncoderConfig, build_encoder, load_encoder
from lightning_modules.networks.row_tokenizer import rows_of
from tests.helpers.small_open_clip import write_model
from tests.helpers.small_siglip import write_siglip
from tests.helpers.tiny_run import TINY, fit

SENTENCES = ["a red boat", "Two  CATS' tails,\nbeside it's lamp.", "x", "a small blue ring above a star. " * 40]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(folder, epochs=1, method=ClipFinetune)
    return folder / "checkpoints" / "last.ckpt"


def images():
    rng = np.random.default_rng(0)
    sizes = [(16, 16), (19, 16), (16, 23), (40, 31), (17, 64)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


USER = """
import sys
import numpy as np
from PIL import Image
FOLDER, work = sys.argv[1:]
images = [Image.open(f"{work}/{n}.png") for n in range(5)]
texts = open(f"{work}/texts.txt").read().split("\\0")
code = open(f"{FOLDER}/README.md").read().split("```python\\n")[1].split("```")[0]
exec(code)
np.savez(f"{work}/out.npz", image=image, text=text)
assert not {"torch", "transformers", "lightning"} & set(sys.modules), "the card's code needs none of them"
"""


@pytest.mark.slow
def test_the_card_s_code_embeds_as_we_do_without_torch(checkpoint, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["export", str(checkpoint), str(folder), "--format", "onnx"]) == 0
    assert "largest difference of onnxruntime's embeddings from torch's: image " in capsys.readouterr().out
    names = ["README.md", "image.onnx", "preprocess.json", "text.onnx", "tokenizer.json"]
    assert sorted(file.name for file in folder.iterdir()) == names
    card = (folder / "README.md").read_text()
    assert "library_name: onnx" in card
    assert "differ from torch's by at most" in card
    for number, image in enumerate(images()):
        image.save(tmp_path / f"{number}.png")
    (tmp_path / "texts.txt").write_text("\0".join(SENTENCES))
    subprocess.run([sys.executable, "-c", USER, str(folder), str(tmp_path)], check=True, cwd=tmp_path)
    made = np.load(tmp_path / "out.npz")
    model = EvaluationModel(encoder_of(read(checkpoint)), torch.device("cpu"))
    squares = torch.stack([as_pixels(centre_crop(image, TINY.image_size)) for image in images()])
    np.testing.assert_allclose(made["image"], model.encode_image(squares).image.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(made["text"], model.encode_text(SENTENCES).numpy(), rtol=0, atol=1e-4)


TIMM = EncoderConfig(image_tower="timm/resnet18", image_size=32, text_width=16, text_layers=1, text_heads=2,
                     embed_dim=16, context_length=24)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip of 248 tokens", "siglip", "siglip2", "open_clip", "timm"])
def test_every_family(family, tmp_path):
    torch.manual_seed(0)
    if family.startswith("siglip"):
        encoder = load_encoder(write_siglip(tmp_path / "source", family))
    elif family == "timm":
        encoder = build_encoder(TIMM)
    elif family == "open_clip":
        write_model(tmp_path / "source", "token")
        encoder = load_encoder(tmp_path / "source")
    else:
        encoder = DualEncoder(EncoderConfig(**{**vars(TINY), "context_length": 248, "frozen_positions": 20}))
    check_onnx(encoder)
    folder = tmp_path / "out"
    folder.mkdir()
    difference = save_onnx(encoder, folder)
    assert max(difference) <= 1e-4
    rows = rows_of((folder / "tokenizer.json").read_text(), SENTENCES)
    assert {len(row) for row in rows} == {encoder.row_length or encoder.context_length}
    assert compare(encoder, folder) == difference


def test_files_that_onnxruntime_cannot_run_are_refused(tmp_path, monkeypatch):
    def fails(encoder, folder):
        raise RuntimeError("invalid dimensions\nin detail")

    monkeypatch.setattr(onnx_export, "_convert", lambda *given: None)
    monkeypatch.setattr(onnx_export, "compare", fails)
    with pytest.raises(ValueError, match=r"^onnxruntime cannot run what torch converted: invalid dimensions$"):
        save_onnx(DualEncoder(TINY), tmp_path)
    assert not list(tmp_path.iterdir())


def test_clip_s_rows_are_our_tokens(tmp_path):
    encoder = DualEncoder(TINY)
    for text in (*SENTENCES, "", "Naïve café, 東京 ☃ 3.5", "<|endoftext|> inside"):
        (row,) = rows_of(encoder.row_tokenizer(), [text])
        assert row == encoder.tokenizer(text), text


def test_rows_and_packed_texts_have_the_same_embeddings():
    encoder = DualEncoder(TINY).eval()
    rows = torch.tensor(rows_of(encoder.row_tokenizer(), SENTENCES))
    with torch.no_grad():
        ours = EvaluationModel(encoder, torch.device("cpu")).encode_text(SENTENCES)
        torch.testing.assert_close(encoder.encode_rows(rows), ours, rtol=0, atol=1e-6)
        changed = torch.where(torch.arange(rows.shape[1]) > (rows == 49407).int().argmax(1)[:, None], 17, rows)
        torch.testing.assert_close(encoder.encode_rows(changed), ours, rtol=0, atol=1e-6)


def test_what_does_not_agree_is_not_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_convert", lambda *_: None)
    monkeypatch.setattr(onnx_export, "compare", lambda *_: onnx_export.OnnxCheck(1e-6, 0.3))
    with pytest.raises(ValueError, match=r"text.onnx must agree with torch to 0.0001, got a difference of 0.3"):
        export(checkpoint, tmp_path / "out", "onnx")
    assert not list((tmp_path / "out").iterdir())


def test_refusals(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--format onnx writes float32 weights, got --dtype float16"):
        export(checkpoint, tmp_path / "out", "onnx", dtype=torch.float16)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "LARGEST", 1000)
        with pytest.raises(ValueError, match="an ONNX file holds at most 2 GiB"):
            export(checkpoint, tmp_path / "out", "onnx")
    encoder = DualEncoder(TINY)
    with monkeypatch.context() as patch:
        patch.setattr(DualEncoder, "tokenizer", object())
        with pytest.raises(ValueError, match="cannot write a tokenizer of the kind object"):
            check_onnx(encoder)
    with monkeypatch.context() as patch:
        patch.setattr(DualEncoder, "resizing", ("longest", "bicubic"))
        with pytest.raises(ValueError, match="resized by shortest or squash, got longest"):
            check_onnx(encoder)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ValueError, match=r"needs onnxruntime: pip install 'grainclip\[onnx\]'"):
            check_onnx(encoder)
    assert not (tmp_path / "out").exists()
