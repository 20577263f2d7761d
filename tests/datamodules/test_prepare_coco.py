"""COCO's files as shards: nothing lost uncounted, links true, wrong files named."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import nltk
import pytest
from PIL import Image

from datamodules.formats.layout import LayoutError
from datamodules.granularity.nltk_data import NltkDataError
from datamodules.prepare import prepare_coco
from datamodules.prepare.job import PrepareJob
from datamodules.shards.discovery import find_shards
from lightning_modules.cli.main import main
from tests.datamodules.prepared import linked, read
from tests.datamodules.small_coco import DOG, MAN, Coco, change, picture, proposed

pytestmark = pytest.mark.usefixtures("nltk_data")


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    return Coco(tmp_path)


def test_a_small_set(coco):
    samples = coco.prepare()
    assert list(samples) == ["000000000001", "000000000002"]
    first, second = samples.values()
    assert first.image == coco.files["1.jpg"]
    assert first.caption == "A man walks a dog. Two dogs & a bench!"
    assert first.sentences == ("A man walks a dog.", "Two dogs & a bench!")
    assert first.source == "coco"
    assert linked(first) == [*DOG, *MAN]
    assert (second.extension, second.sentences, second.regions) == ("png", ("A red bus.",), ())
    assert coco.manifest["rejects"] == {}


def test_smaller_pictures_keep_their_boxes(coco):
    first, second = coco.prepare(max_side=32).values()
    assert [Image.open(io.BytesIO(sample.image)).size for sample in (first, second)] == [(32, 16)] * 2
    assert (first.extension, second.extension, linked(first)) == ("jpg", "jpg", [*DOG, *MAN])


def test_without_instances(coco):
    coco.prepare()
    out = coco.folder / "captions only"
    prepare_coco(coco.folder / "images", coco.folder / "captions.json", PrepareJob(out))
    assert [sample.regions for sample in read(out).values()] == [(), ()]


def test_each_thing_left_out_is_counted(coco, caplog):
    extra = ["none.jpg", "not.jpg", "anim.gif", "turned.jpg", "empty.jpg"]
    coco.files |= {"not.jpg": b"no picture", "anim.gif": picture("GIF"), "turned.jpg": picture(size=(20, 40))}
    coco.files["empty.jpg"] = picture()
    coco.captions["images"] += [
        {"id": 10 + i, "file_name": name, "width": 40, "height": 20} for i, name in enumerate(extra)
    ]
    coco.captions["annotations"] += [{"image_id": 10 + i, "caption": "A cat."} for i in range(4)]
    coco.captions["annotations"] += [{"image_id": 14, "caption": " -- "}]
    box = {"image_id": 1, "category_id": 18}
    coco.instances["annotations"] += [
        {"id": 20, **box, "bbox": [1, 1, 0, 5]},
        {"id": 21, **box, "bbox": [45, 1, 10, 5]},
        {"id": 22, **box, "bbox": [1, 1, 5, 5], "iscrowd": 1},
        {"id": 23, "image_id": 10, "category_id": 18, "bbox": [1, 1, 5, 5]},
        {"id": 24, "image_id": 99, "category_id": 18, "bbox": [1, 1, 5, 5]},
    ]
    with caplog.at_level(logging.INFO, "grainclip"):
        samples = coco.prepare(skip_missing=True)
    assert len(samples) == 2
    assert coco.manifest["rejects"] == {
        "box of an image left out": 2,
        "box outside the image": 1,
        "box without area": 1,
        "crowd box": 1,
        "image format GIF": 1,
        "image missing": 1,
        "image shape differs from its annotation's": 1,
        "image unreadable": 1,
        "no caption": 1,
    }
    assert "left out: 1 × image unreadable (not.jpg)" in caplog.text
    assert "2 samples in 1 shards" in caplog.text
    statistics = coco.manifest["statistics"]
    assert statistics["boxes"] == statistics["named_boxes"] == {"0": 1, "2": 1}


def test_proposals_have_no_phrase_and_no_label(coco):
    coco.proposals = proposed([0, 0, 20, 10], [35, 15, 10, 10], category_id=1)
    samples = coco.prepare()
    expected = [(None, None, (0, 0, 0.5, 0.5)), (None, None, (0.875, 0.75, 1, 1))]
    assert linked(samples["000000000001"]) == [*DOG, *MAN, *expected]
    assert samples["000000000002"].regions == ()
    assert coco.manifest["rejects"] == {}
    coco.instances = None
    assert linked(coco.prepare(overwrite=True)["000000000001"]) == expected


def test_the_best_proposals_are_kept(coco):
    coco.proposals = proposed(*([0, 0, w, 10] for w in (2, 4, 6, 8, 10, 12)), scores=(0.1, 0.9, -2, 0.9, 0.5, 1))
    sample = coco.prepare(max_proposals=3)["000000000001"]
    assert [box[2] for _, label, box in linked(sample) if label is None] == [0.3, 0.1, 0.2]
    assert coco.manifest["rejects"] == {"proposal past max_proposals": 3}
    for row in coco.proposals["annotations"]:
        del row["score"]
    sample = coco.prepare(max_proposals=3, overwrite=True)["000000000001"]
    assert [box[2] for _, label, box in linked(sample) if label is None] == [0.05, 0.1, 0.15]


def test_each_proposal_left_out_is_counted(coco):
    bad = ([40, 0, 5, 5], [1, 1, 0, 5], [0.1, 0.1, 0.2, 0.2], [10, 5, 20, 10], [0, 0, 4, 4], [0, 0, 4, 4])
    coco.proposals = proposed(*bad)
    coco.proposals["annotations"] += [
        {"image_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"image_id": 99, "bbox": [0, 0, 9, 9], "id": 5},
    ]
    sample = coco.prepare(max_proposals=1)["000000000001"]
    assert linked(sample) == [*DOG, *MAN, (None, None, (0, 0, 0.1, 0.2))]
    assert coco.manifest["rejects"] == {
        "box in fractions, not pixels": 1,
        "box of an image left out": 1,
        "box outside the image": 1,
        "box without area": 1,
        "crowd box": 1,
        "proposal equal to another box": 2,
    }


def test_a_caption_without_words_is_counted(coco):
    coco.captions["annotations"].append({"image_id": 2, "caption": "?!"})
    assert coco.prepare()["000000000002"].sentences == ("A red bus.",)
    assert coco.manifest["rejects"] == {"caption without words": 1}


def test_at_least_one_proposal(coco):
    with pytest.raises(ValueError, match="max_proposals must be at least 1, got 0"):
        coco.prepare(max_proposals=0)


def test_missing_images_stop_the_run(coco):
    coco.captions["images"] += [{"id": i, "file_name": f"gone{i}.jpg"} for i in range(5, 10)]
    with pytest.raises(
        FileNotFoundError, match=r"^5 of the 7 images of captions.json are missing, such as .*/gone5.jpg; --im"
    ):
        coco.prepare()
    assert not (coco.folder / "out").exists()


def test_no_image_left(coco):
    coco.captions["annotations"] = []
    with pytest.raises(ValueError, match=r"no sample of 'coco' was left to write; rejected: .*2 × no caption"):
        coco.prepare()


def test_shards_are_not_overwritten_unasked(coco):
    coco.prepare(samples_per_shard=1)
    assert [shard.samples for shard in find_shards(coco.folder / "out")] == [1, 1]
    with pytest.raises(FileExistsError, match="other settings"):
        coco.prepare()
    coco.prepare(overwrite=True)
    assert [shard.samples for shard in find_shards(coco.folder / "out")] == [2]


def test_text_ids_make_keys(coco):
    for row in [*coco.captions["images"], *coco.captions["annotations"], *coco.instances["annotations"]]:
        for name in {"id", "image_id"} & row.keys():
            row[name] = f"img.{row[name]}/x"
    assert list(coco.prepare()) == ["img_1_x", "img_2_x"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change("captions", value="{"), r"captions\.json is not JSON"),
        (change("captions", value="[1]"), r"captions\.json: the JSON must be an object, got list"),
        (change("captions", "images", value="gone"), r"captions\.json: 'images' must be a list, .* got NoneType"),
        (change("captions", "images", 1, value=3), r"'images\[1\]' must be an object, got 3"),
        (change("captions", "images", 1, "id", value=1), r"captions\.json: ids must differ, got 1 twice in 'images'"),
        (change("captions", "images", 1, "id", value=True), r"'images\[1\]\.id' must be a whole number or a text"),
        (change("captions", "images", 0, "file_name", value="../1.jpg"), r"file_name' must be a path inside .*'\.\./1"),
        (change("captions", "images", 0, "file_name", value="/1.jpg"), r"file_name' must be a path inside"),
        (change("captions", "images", 0, "width", value=0), r"'images\[0\]\.width' must be a number of pixels above 0"),
        (change("captions", "annotations", 2, "caption", value="gone"), r"'annotations\[2\]\.caption' must be a text"),
        (change("instances", "categories", value=None), r"instances\.json: 'categories' must be a list"),
        (change("instances", "annotations", 0, "bbox", value=[1, 2, 3]), r"'annotations\[0\]\.bbox' must be \[x, y"),
        (change("instances", "annotations", 0, "bbox", value=[1, 2, 3, "4"]), r"bbox' must be \[x, y, width, height\]"),
        (change("instances", "annotations", 0, "bbox", value=[1, 2, 3, float("nan")]), r"bbox' must be .* nan\]"),
        (change("instances", "annotations", 1, "category_id", value=5), r"\[1\]\.category_id' must be the id .* got 5"),
        (
            change("instances", "categories", 0, "name", value=" "),
            r"'categories\[0\]\.name' must be a text that is not",
        ),
        (change("proposals", value={"images": []}), r"proposals\.json: 'annotations' must be a list, .* got NoneType"),
        (
            change("proposals", value=proposed([1, 2, 3])),
            r"proposals\.json: 'annotations\[0\]\.bbox' must be \[x, y, w",
        ),
        (
            change("proposals", value=proposed([1, 2, 3, 4], [1, 2, 3, 4], scores=(0.5,))),
            r"'annotations\[1\]\.score' must be a number \(all boxes have a score, or none has\), got None",
        ),
    ],
)
def test_a_wrong_layout_is_named(coco, wrong, message):
    wrong(coco)
    with pytest.raises(LayoutError, match=message):
        coco.prepare()
    assert not (coco.folder / "out").exists()


def test_a_missing_annotation_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the annotation file .*none\.json does not exist"):
        prepare_coco(tmp_path, tmp_path / "none.json", PrepareJob(tmp_path / "out"))


def test_missing_nltk_data_is_told_first(monkeypatch, tmp_path):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(NltkDataError, match=r"python -m nltk\.downloader punkt_tab"):
        prepare_coco(tmp_path, tmp_path / "none.json", PrepareJob(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_command_line_can_be_built(coco):
    coco.prepare()
    folder = coco.folder
    arguments = [f"--images={folder / 'images'}", f"--captions={folder / 'captions.json'}", f"--out={folder / 'cli'}"]
    assert main(["prepare", "coco", *arguments]) == 0
    assert len(read(folder / "cli")) == 2
