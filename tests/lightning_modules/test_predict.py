"""``lightning predict``: embeddings of shards in files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from eval.data.image_preprocessing import centre_crop
from eval.results.per_item import parquet
from lightning_modules.cli.main import main
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import DualEncoder
from tests.helpers.tiny import make_sample, picture, write_shards, write_tar
from tests.helpers.tiny_run import TINY


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    DualEncoder(TINY).save_pretrained(folder)
    return folder


def predict(model, shards, out, *more):
    arguments = ["--model", str(model), "--shards", str(shards), "--out", str(out), "--device", "cpu"]
    return main(["predict", *arguments, *map(str, more)])


def test_rows_are_the_model_s_vectors_in_the_shards_order(model, tmp_path, capsys):
    write_shards(tmp_path / "shards", 7, 2)
    kinds = "image,caption,sentence,phrase"
    assert predict(model, tmp_path / "shards", tmp_path / "out", "--kinds", kinds, "--batch_size", 3) == 0
    assert "image.npy: [7, 16]" in capsys.readouterr().out
    order = [0, 2, 4, 6, 1, 3, 5]  # two shards, samples in turn
    samples = [make_sample(number) for number in order]
    encoder = EvaluationModel(DualEncoder.from_pretrained(model), torch.device("cpu"))
    rows = {kind: np.load(tmp_path / "out" / f"{kind}.npy") for kind in kinds.split(",")}
    said = {
        kind: [json.loads(line) for line in (tmp_path / "out" / f"{kind}.jsonl").read_text().splitlines()]
        for kind in rows
    }
    assert [row["text"] for row in said["caption"]] == [sample.caption for sample in samples]
    assert [row["key"] for row in said["image"]] == [f"train-{n % 2:03d}/{n:06d}" for n in order]
    assert [row["text"] for row in said["sentence"]] == [text for sample in samples for text in sample.sentences]
    expected = encoder.encode_text([sample.caption for sample in samples])
    np.testing.assert_allclose(rows["caption"], expected, atol=1e-6)
    assert rows["phrase"].shape == (14, 16)
    from eval.data.sources import TarMember
    from eval.protocols.embed import pixels

    class Whole(TarMember):
        def open(self):
            import io

            from PIL import Image

            return Image.open(io.BytesIO(samples[3].image)).convert("RGB")

    square = pixels(centre_crop, Whole(tmp_path, "x", 0, 0), 16)
    np.testing.assert_allclose(rows["image"][3], encoder.encode_image(square[None]).image[0], atol=1e-6)


def test_shards_that_are_called_alike_have_keys_of_their_own(model, tmp_path, capsys):
    """``prepare`` calls the shards of every folder shard-000000.tar; their keys repeat too."""
    shards = [tmp_path / name for name in ("a/train", "b/train", "val")]
    for number, folder in enumerate(shards):
        folder.mkdir(parents=True)
        write_tar(folder / "shard-000000.tar", [make_sample(0, image=picture(number))])
    write_tar(shards[-1] / "shard-000001.tar", [make_sample(0)])
    assert predict(model, shards[0], tmp_path / "out", "--shards", *shards) == 0
    keys = [json.loads(line)["key"] for line in (tmp_path / "out" / "image.jsonl").read_text().splitlines()]
    assert keys == [
        "a/train/shard-000000/000000",
        "b/train/shard-000000/000000",
        "val/shard-000000/000000",
        "shard-000001/000000",
    ]
    same = [shards[0], shards[0] / ".." / "train"]
    with pytest.raises(SystemExit):
        predict(model, same[0], tmp_path / "twice", "--shards", *same)
    assert "--shards must name each shard once, got" in capsys.readouterr().err


def test_a_folder_holds_the_embeddings_of_one_model(model, tmp_path, capsys):
    shards, out = tmp_path / "shards", tmp_path / "out"
    write_shards(shards, 4, 1)
    torch.manual_seed(1)
    DualEncoder(TINY).save_pretrained(tmp_path / "other model")
    assert predict(model, shards, out) == 0
    capsys.readouterr()
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert set(before) == {"image.npy", "image.jsonl", "caption.npy", "caption.jsonl", "embeddings.json"}
    write_shards(tmp_path / "other shards", 3, 1)
    for other, message in (
        ((tmp_path / "other model", shards, out), f"holds embeddings of another model, {model}: choose another folder"),
        ((model, tmp_path / "other shards", out), "holds embeddings of other samples"),
        ((model, shards, out, "--fit", "squash"), "holds embeddings of --fit centre_crop"),
    ):
        with pytest.raises(SystemExit):
            predict(*other)
        told = capsys.readouterr()
        assert f"--out {out} {message}" in told.err
        assert told.out == ""  # before the work
        assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert predict(model, shards, out, "--kinds", "sentence") == 0  # of the same model more may come
    assert (out / "sentence.npy").is_file()
    assert (out / "image.npy").read_bytes() == before["image.npy"]


def test_files_of_which_nothing_is_known_stay(model, tmp_path, capsys):
    write_shards(tmp_path / "shards", 2, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sentence.npy").write_bytes(b"mine")
    with pytest.raises(SystemExit):
        predict(model, tmp_path / "shards", tmp_path / "out")
    assert "holds sentence.npy, but no embeddings.json" in capsys.readouterr().err
    (tmp_path / "out" / "embeddings.json").write_text("[]")
    with pytest.raises(SystemExit):
        predict(model, tmp_path / "shards", tmp_path / "out")
    assert "embeddings.json is damaged" in capsys.readouterr().err
    assert (tmp_path / "out" / "sentence.npy").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_written_is_told_before_the_work(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lightning_modules.cli.predict.load_model", lambda *_: 1 / 0)
    with pytest.raises(SystemExit):
        predict(model, tmp_path / "shards", "/dev/null/out")
    assert (
        "--out must be a folder that can be written to, got /dev/null/out: Not a directory" in capsys.readouterr().err
    )


def test_parquet(model, tmp_path):
    pytest.importorskip("pyarrow")
    write_shards(tmp_path / "shards", 3, 1)
    assert predict(model, tmp_path / "shards", tmp_path / "p", "--format", "parquet") == 0
    assert predict(model, tmp_path / "shards", tmp_path / "n") == 0
    _, reader = parquet()
    table = reader.read_table(tmp_path / "p" / "caption.parquet").to_pydict()
    assert set(table) == {"key", "text", "embedding"}
    np.testing.assert_array_equal(np.array(table["embedding"], np.float32), np.load(tmp_path / "n" / "caption.npy"))


def test_refusals(model, tmp_path, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit):
            predict(*arguments)
        return capsys.readouterr().err

    shards = write_tar(tmp_path / "a.tar", [make_sample(0), {"__key__": "bad", "jpg": b"x", "json": b"{"}])
    assert "a.tar, sample 'bad': not JSON" in refused(model, shards, tmp_path / "out")
    assert "--kinds must be of image, caption, sentence, phrase, got 'word'" in refused(
        model, shards, tmp_path / "out", "--kinds", "word"
    )
    assert "does not exist" in refused(model, tmp_path / "none.tar", tmp_path / "out")
    shards = write_tar(tmp_path / "b.tar", [make_sample(0, image=b"no picture")])
    assert "b/000000 is not an image that can be read" in refused(model, shards, tmp_path / "out")
    shards = write_tar(tmp_path / "c.tar", [make_sample(0, phrases=(), regions=())])
    assert "the shards hold no phrase" in refused(model, shards, tmp_path / "out", "--kinds", "phrase")
