"""Every benchmark, end to end by the command, on small data sets in the released layouts; on 1, 2 and 3 ranks."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from eval.benchmarks.catalogue import BENCHMARKS
from lightning_modules.cli.main import main
from tests.eval import releases
from tests.eval.benchmarks.test_classification import WNIDS, write_image
from tests.eval.benchmarks.test_localisation import write_entities, write_refcoco, write_segmentation
from tests.eval.benchmarks.test_multiple_choice import write_aro, write_sugarcrepe
from tests.eval.fgovd_release import write_fgovd
from tests.eval.official import write_coco, write_lvis, write_panoptic
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny import write_shards
from tests.helpers.tiny_run import fit

ON_RANKS = (
    "coco_boxes,coco_panoptic_clipself,coco_val2017,coco_karpathy_1k,fgovd,flickr30k_entities,refcoco,segmentation:s,"
    "wds:c,cifar10,winoground,sugarcrepe,aro_relation"
)
ITEMS = ["--items"] if importlib.util.find_spec("pyarrow") else []
NO_SKILL = r".*/(strict_R@1|chance|ties|mean_rank.*|median_rank|queries|questions|boxes|images|phrases)"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(folder, epochs=1)
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for write in (
        *(write_coco, write_lvis, write_panoptic, releases.write_urban1k, releases.write_docci, releases.write_dci),
        *(releases.write_iiw, releases.write_val2017, releases.write_flickr, releases.write_flickr8k, write_fgovd),
        *(write_sugarcrepe, write_aro, write_entities, write_refcoco, write_segmentation, releases.write_cifar),
        releases.write_himo_docci,
    ):
        write(folder)
    for level in ("color", "material", "pattern", "transparency"):
        (folder / "benchmarks" / f"{level}.json").write_bytes(
            (folder / "benchmarks" / "1_attributes.json").read_bytes()
        )
    releases.write_karpathy(folder, 10)
    releases.write_sharegpt4v(folder, 1000)
    releases.write_wds(folder / "c", "classification", [[("red", "0"), ("blue", "2")], [("green", "1"), ("red", "2")]])
    for name, colour in (("a", "red"), ("b", "blue")):
        releases.plain(folder / "winoground" / "data" / "images" / f"{name}.png", colour)
    examples = [{"image_0": "a", "image_1": "b", "caption_0": "red", "caption_1": "blue"}] * 3
    releases.write_lines(folder / "winoground" / "data" / "examples.jsonl", examples)
    for place in range(1000):
        write_image(folder / "imagenet" / "val" / WNIDS[place] / "x", place)
    for place in (0, 10, 999):
        write_image(folder / "imagenetv2-matched-frequency-format-val" / str(place) / "x", place)
        for other in "aor":
            write_image(folder / f"imagenet-{other}" / WNIDS[place] / "x", place)
    for data in ("refcoco+", "refcocog"):
        (folder / data).mkdir()
        for file in (folder / "refcoco").iterdir():
            name = file.name.replace("unc", "umd") if data == "refcocog" else file.name
            (folder / data / name).write_bytes(file.read_bytes())
    return folder


def evaluate(model, root, benchmarks, out, *more):
    arguments = ["--model", str(model), "--benchmark", benchmarks, "--root", str(root), "--out", str(out)]
    assert main(["evaluate", *arguments, "--device", "cpu", "--batch_size", "2", "--bootstrap", "10", *more]) == 0


@pytest.mark.slow
def test_every_benchmark_by_the_command(model, root, tmp_path, monkeypatch):
    for module in ("imagenet", "cifar"):
        monkeypatch.setattr(f"eval.benchmarks.{module}.imagenet_templates", lambda: ("a photo of a {}.",))
    for module in ("segmentation", "image_folder"):
        monkeypatch.setattr(f"eval.benchmarks.{module}.folder_templates", lambda folder: ("a photo of a {}.",))
    names = [one for one in BENCHMARKS if one != "sharegpt4v_10k"]
    names += [
        "retrieval:dataset.jsonl",
        "oracle:dataset.jsonl",
        "segmentation:s",
        "wds:c",
        "folder:mine",
        "fgovd:benchmarks/color.json",
        "shards:own",
        "himo:own",
    ]
    rows = [{"image": f"{n}.jpg", "caption": f"number {n}"} for n in (1, 2, 3)]
    releases.write_lines(root / "dataset.jsonl", rows)
    write_shards(root / "own", 4, 1)
    for n, colour in zip((1, 2, 3), releases.NAMES, strict=True):
        releases.plain(root / f"{n}.jpg", "red")
        releases.plain(root / "mine" / f"{colour}_things" / "a.jpg", colour)
    evaluate(model, root, ",".join(names), tmp_path / "out", *ITEMS)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(found["settings"]["benchmarks"]) == names
    told = {name for name in found["numbers"] if not re.fullmatch(NO_SKILL, name) and "(leaks)" not in name}
    assert told == set(found["settings"]["intervals"])
    for name, settings in found["settings"]["benchmarks"].items():
        assert settings["protocol"], name
        assert {"files", "split sha256"} & set(settings), name
    heads = {name.split("/")[0].removesuffix(" (leaks)") for name in found["numbers"]}
    assert heads == {"fgovd" if name.startswith("fgovd:") else name.removesuffix(".jsonl") for name in names}


@pytest.mark.slow
def test_sharegpt4v_10k_by_the_command(model, tmp_path):
    counts = {"sharegpt4v_1k": 1000, "sharegpt4v_10k": 10_000}
    releases.write_sharegpt4v(tmp_path / "data", 10_000)
    evaluate(model, tmp_path / "data", ",".join(counts), tmp_path / "out", "--batch_size", "500")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    for name, count in counts.items():
        settings = found["settings"]["benchmarks"][name]
        assert (settings["images"], settings["texts"]) == (count, count)
        assert list(settings["files"]) == [f"share-captioner_coco_lcs_sam_1246k_1107.json[:{count}]"]
        for way in ("text_to_image", "image_to_text"):
            assert found["numbers"][f"{name}/{way}/queries"] == count
        # the images are three: no caption can tell its own from the many that are the same
        assert found["numbers"][f"{name}/text_to_image/ties"] == 1.0
        assert found["numbers"][f"{name}/text_to_image/strict_R@1"] == 0.0


@pytest.fixture(scope="module")
def alone(model, root, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "results.json"
    evaluate(model, root, ON_RANKS, out)
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_change_no_number(model, root, alone, ranks, tmp_path):
    run_on_ranks(evaluate, ranks, model, root, ON_RANKS, tmp_path / "results.json")
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == alone
    assert len(found["numbers"]) > 50
