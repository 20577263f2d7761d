"""A real TensorBoard server over a run's folder: it answers with the tags that are meant to be there, and pictures."""

from __future__ import annotations

import io
import json
import time
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from lightning_modules.callbacks import DataMonitor, Diagnostics, SampleImages, Throughput
from tests.helpers.tiny_run import fit

pytestmark = pytest.mark.slow
ALL = {
    "experimentName": "", "startIndex": 0, "sliceSize": 9, "colParams": [],
    "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
}  # fmt: skip


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """A function from a path to what the server of a short run answers."""
    from tensorboard import default, program

    folder = tmp_path_factory.mktemp("run")
    fit(folder, SampleImages(every_n_steps=256, samples=1), Diagnostics(), Throughput(), DataMonitor(), epochs=1)
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=[None, "--logdir", str(folder), "--port", "0", "--host", "127.0.0.1", "--load_fast", "false"])
    address = board.launch().rstrip("/")

    def answer(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{address}/data/{path}", data, headers), timeout=60) as found:
            return found.read()

    until = time.monotonic() + 200
    while time.monotonic() < until:
        if b"STATUS_SUCCESS" in answer("plugin/hparams/session_groups", ALL):  # what is written last
            return answer
        time.sleep(0.2)
    raise AssertionError("the server found nothing in the run's folder")


def test_scalars_histograms_and_layout(ask):
    scalars = set(json.loads(ask("plugin/scalars/tags"))["."])
    assert scalars >= {
        "train/loss_beta_cal", "beta_cal_by_grain/phrase", "logit_scale/pooling", "gradient_norm/pooling",
        "geometry/alignment", "geometry/modality_gap", "geometry/effective_rank/image", "data/padding_share",
        "data/duplicate_share", "throughput/teraflops", "val/caption/text_to_image/R@1",
    }  # fmt: skip
    assert "similarities/phrase/positive" in json.loads(ask("plugin/histograms/tags"))["."]
    layout = json.loads(ask("plugin/custom_scalars/layout"))
    assert "retrieval" in [category["title"] for category in layout["category"]]


def test_pictures_decode(ask):
    tags = json.loads(ask("plugin/images/tags"))["."]
    assert {tag.partition("/")[0] for tag in tags} == {
        "attention", "boxes", "similarity within an image", "similarity of all", "gallery", "targets", "embeddings",
    }  # fmt: skip
    for tag in tags:
        entries = json.loads(ask(f"plugin/images/images?run=.&sample=0&tag={quote(tag)}"))
        assert [entry["step"] for entry in entries] == [0, 3]
        with Image.open(io.BytesIO(ask(f"plugin/images/individualImage?{entries[0]['query']}"))) as picture:
            picture.load()
            assert min(picture.size) > 150


def test_projector_and_hyper_parameters(ask):
    run = json.loads(ask("plugin/projector/runs"))[0]
    config = json.loads(ask(f"plugin/projector/info?run={quote(run)}"))
    assert config["embeddings"][0]["tensorShape"][1] == 16
    experiment = json.loads(ask("plugin/hparams/experiment", {"experimentName": ""}))
    names = [one["displayName"] for one in experiment["hparamInfos"]]
    assert names[:5] == ["method", "objective", "beta", "optim/lr", "data/batch_size"]
    assert names[5:] == sorted(names[5:])
    (session,) = json.loads(ask("plugin/hparams/session_groups", ALL))["sessionGroups"]
    assert session["hparams"]["1 method"] == "BetaClip"
    told = {one["name"]["tag"]: one["value"] for one in session["metricValues"]}
    assert set(told) >= {"val/caption/text_to_image/R@1", "val/sentence/image_to_text/R@1", "train/loss"}
