"""COCO's and LVIS's boxes: the official files, read as they are, and the protocol against a loop in float64."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eval.benchmarks.coco_boxes import FG_CLIP, coco_boxes, lvis_boxes, read_coco, read_lvis
from eval.data.cache import Cache
from eval.interfaces import EvalContext
from eval.protocols.prompts import class_vectors, imagenet_templates
from lightning_modules.cli.evaluate import EvaluationModel
from lightning_modules.networks import DualEncoder
from tests.eval.official import ColourModel, rows, write_coco, write_json, write_lvis
from tests.helpers.tiny_run import TINY


def test_coco_by_hand(tmp_path):
    file, model = write_coco(tmp_path), ColourModel()
    result = coco_boxes(model, EvalContext(tmp_path, batch_size=1))
    numbers = {name.removeprefix("coco_boxes/"): number for name, number in result.numbers.items()}
    assert (numbers["top1"], numbers["top5"], numbers["boxes"]) == (0.8, 1.0, 5)
    assert numbers["class_mean_top1"] == pytest.approx((1 + 2 / 3) / 2)
    assert (result.settings["classes"], result.settings["images"], result.settings["prompts per class"]) == (3, 2, 80)
    assert result.settings["files"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    assert result.counts == {}
    assert result.settings["image"] == "squash, 16×16"
    assert "a bad photo of a red." in model.texts
    assert coco_boxes(model, EvalContext(tmp_path, batch_size=7)).numbers == result.numbers


def test_single_boxes_and_the_cache(tmp_path):
    write_coco(tmp_path)
    cache = Cache(tmp_path / "cache")
    result = coco_boxes(ColourModel(), EvalContext(tmp_path, cache=cache))
    table = result.items["coco_boxes"]
    columns = table.columns
    assert columns["image"][0] == "val2017/000000000001.png"
    assert (columns["class"], columns["chosen"]) == (
        ["red", "green", "green", "green", "red"],
        ["red", "green", "red", "green", "red"],
    )
    assert (columns["x0"][1], columns["y1"][1], columns["rank"][2]) == (0.5, 1.0, 1)
    for name, mean in table.means.items():
        hits: dict = {}
        for hit, label in zip(columns[mean.value], columns["label"], strict=True):
            hits.setdefault(label if mean.group else 0, []).append(hit)
        shares = [sum(group_hits) / len(group_hits) for group_hits in hits.values()]
        assert result.numbers[name] == pytest.approx(sum(shares) / len(shares))
    assert len(table.means) == 4
    assert coco_boxes(ColourModel(), EvalContext(tmp_path, cache=cache)) == result
    assert cache.hits == 2  # class vectors and boxes


def test_patches_are_pooled_as_they_are():
    dense = torch.randn(2, 8, 2, 2)
    assert FG_CLIP.prepare(dense) is dense


def test_classes_are_in_the_order_of_their_ids(tmp_path):
    write_coco(tmp_path)
    data = read_coco(tmp_path, skip_missing=False)
    assert data.classes == ("red", "green", "blue")
    assert [[box.label for box in image.boxes] for image in data.images] == [[0, 1], [1, 1, 0]]
    assert data.images[0].boxes[1].box == (0.5, 0.0, 1.0, 1.0)


def test_lvis_images_come_by_url_from_both_folders(tmp_path):
    write_lvis(tmp_path)
    data = read_lvis(tmp_path, skip_missing=False)
    assert data.classes == ("deep red (colour)", "deep blue (colour)", "deep green (colour)")
    assert [p.image.file.parent.name for p in data.images] == ["val2017", "train2017"]
    assert [[box.label for box in image.boxes] for image in data.images] == [[1], [2]]
    numbers = lvis_boxes(ColourModel(), EvalContext(tmp_path)).numbers
    assert (numbers["lvis_boxes/top1"], numbers["lvis_boxes/boxes"]) == (0.5, 2)


def change(file, section, index, **fields):
    document = rows(file)
    document[section][index] |= fields
    write_json(file, document)


def test_boxes_that_leave_the_image_or_have_no_area_are_counted(tmp_path):
    file = write_coco(tmp_path)
    change(file, "annotations", 0, bbox=[3, 4, 0, 5])
    change(file, "annotations", 1, bbox=[20, 0, 30, 20])
    change(file, "annotations", 2, bbox=[-9, 0, 9, 5])
    change(file, "annotations", 3, bbox=[20, 0, 20.0005, 20])
    data = read_coco(tmp_path, skip_missing=False)
    assert data.counts == {
        "box without area": 1, "box outside its image": 1, "box cut at its image's border": 1
    }  # fmt: skip
    assert [box.box for image in data.images for box in image.boxes[:1]] == [(0.5, 0, 1, 1)] * 2
    result = coco_boxes(ColourModel(), EvalContext(tmp_path))
    assert result.numbers["coco_boxes/boxes"] == 3
    assert result.settings["counts"] == result.counts == dict(data.counts)


def test_missing_images_stop_the_run_or_are_counted(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "val2017" / "000000000002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 2 files of .*json are missing, such as .*2\.png"):
        coco_boxes(ColourModel(), EvalContext(tmp_path))
    result = coco_boxes(ColourModel(), EvalContext(tmp_path, skip_missing=True))
    assert result.counts == {"image missing": 1, "box of a missing image": 3}
    assert result.numbers["coco_boxes/top1"] == 1.0
    (tmp_path / "val2017" / "000000000001.png").unlink()
    with pytest.raises(ValueError, match="coco_boxes: no box is left to classify"):
        coco_boxes(ColourModel(), EvalContext(tmp_path, skip_missing=True))


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        (
            "annotations",
            {"category_id": 2},
            r"'annotations\[id 10\].category_id' must be the id of one of 'categories'",
        ),
        ("annotations", {"image_id": 77}, r"'annotations\[id 10\].image_id' must be the id of one of 'images', got 77"),
        ("annotations", {"bbox": [1, 2, 3]}, r"'annotations\[0\].bbox' must be \[x, y, width, height\].* \[1, 2, 3\]"),
        ("annotations", {"bbox": [1, 2, 3, math.nan]}, r"'annotations\[0\].bbox' must be"),
        ("annotations", {"id": 11}, "ids must differ, got 11 twice in 'annotations'"),
        ("categories", {"name": ""}, r"'categories\[0\].name' must be a text that is not empty, got ''"),
        ("images", {"file_name": "../1.png"}, r"'images\[0\].file_name' must be a path inside the images' folder"),
        ("images", {"width": None}, r"'images\[0\].width' must be a whole number of pixels above 0, got None"),
    ],
)
def test_errors_name_file_field_rule_and_value(tmp_path, section, fields, message):
    change(write_coco(tmp_path), section, 0, **fields)
    with pytest.raises(ValueError, match="instances_val2017.json: " + message):
        read_coco(tmp_path, skip_missing=False)


def test_files_that_are_no_annotations_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no annotations/instances_val2017\.json; --root"):
        read_coco(tmp_path, skip_missing=False)
    file = write_coco(tmp_path)
    for text, message in (("[1]", "must be an object, got list"), ("{", "is not JSON"), ("{}", "'categories' must be")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_coco(tmp_path, skip_missing=False)


def test_lvis_refuses_other_urls_and_gaps_in_the_ids(tmp_path):
    file = write_lvis(tmp_path)
    change(file, "images", 0, coco_url="http://images.cocodataset.org/test2017/1.png")
    with pytest.raises(ValueError, match=r"'images\[0\].coco_url' must be a URL that ends in train2017/NAME"):
        read_lvis(tmp_path, skip_missing=False)
    change(write_lvis(tmp_path), "categories", 0, id=9)
    with pytest.raises(ValueError, match="ids of 'categories' must be 1 to their number 3, got 1 to 9"):
        read_lvis(tmp_path, skip_missing=False)


def test_images_of_another_size_or_kind_are_refused(tmp_path):
    change(write_coco(tmp_path), "images", 0, width=41)
    with pytest.raises(ValueError, match=r"1\.png must have 41×20 pixels, as its annotation says, got 40×20"):
        coco_boxes(ColourModel(), EvalContext(tmp_path))
    write_coco(tmp_path)
    (tmp_path / "val2017" / "000000000001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png is not an image that can be read"):
        coco_boxes(ColourModel(), EvalContext(tmp_path))


def bilinear(grid, y, x):
    """RoIAlign's reading of a map [G, G, D] between its cells' centres."""
    side = len(grid)
    if not (-1 <= y <= side and -1 <= x <= side):
        return np.zeros(grid.shape[2])
    (top, bottom, v), (left, right, u) = (_low(t, side) for t in (y, x))
    upper = grid[top, left] * (1 - u) + grid[top, right] * u
    return upper * (1 - v) + (grid[bottom, left] * (1 - u) + grid[bottom, right] * u) * v


def _low(t, side):
    t = min(max(t, 0.0), side - 1.0)
    low = int(t)
    return low, min(low + 1, side - 1), t - low


def crop(grid, box, size):
    """The mean of the samples inside a box x, y, w, h of an image of ``size``, about one per cell."""
    side = len(grid)
    x, w = box[0] / size[0] * side, box[2] / size[0] * side
    y, h = box[1] / size[1] * side, box[3] / size[1] * side
    rows_, columns = math.ceil(h), math.ceil(w)
    total = np.zeros(grid.shape[2])
    for i in range(rows_):
        for j in range(columns):
            total += bilinear(grid, y - 0.5 + (i + 0.5) * h / rows_, x - 0.5 + (j + 0.5) * w / columns)
    mean = total / (rows_ * columns)
    return mean / np.linalg.norm(mean)


class Recorder(EvaluationModel):
    """Keeps what it pooled."""

    def __init__(self, encoder):
        super().__init__(encoder, torch.device("cpu"))
        self.regions = []

    def pool_regions(self, dense, boxes, image):
        self.regions.append(super().pool_regions(dense, boxes, image))
        return self.regions[-1]


def test_photographs_equal_a_loop_over_the_dense_map(shared):
    root = shared / "data" / "coco_tiny"
    torch.manual_seed(0)
    model = Recorder(DualEncoder(replace(TINY, image_size=64)))
    result = coco_boxes(model, EvalContext(root, batch_size=9))
    document = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    order = sorted(names)
    vectors = class_vectors(model.encode_text, [names[i] for i in order], imagenet_templates()).double().numpy()
    expected, ranks = [], []
    for image in document["images"]:
        photograph = Image.open(root / "val2017" / image["file_name"])
        pixels = np.array(photograph.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
        dense = model.encode_image(torch.from_numpy(pixels).permute(2, 0, 1)[None]).dense.flatten(2).mT
        grid = dense[0].double().numpy().reshape(8, 8, -1)
        for annotation in document["annotations"]:
            if annotation["image_id"] == image["id"]:
                expected.append(crop(grid, annotation["bbox"], photograph.size))
                scores = vectors @ expected[-1]
                ranks.append(int((scores > scores[order.index(annotation["category_id"])]).sum()))
    pooled = torch.cat(model.regions).double().numpy()
    assert len(expected) == len(document["annotations"]) > 300
    assert np.ptp(pooled, axis=0).max() > 0.1
    np.testing.assert_allclose(pooled, np.stack(expected), atol=5e-6)
    share = 1 / len(ranks)  # a near tie may fall to either side
    assert result.numbers["coco_boxes/top1"] == pytest.approx(np.mean(np.array(ranks) < 1), abs=share)
    assert result.numbers["coco_boxes/top5"] == pytest.approx(np.mean(np.array(ranks) < 5), abs=share)
    assert (result.numbers["coco_boxes/boxes"], result.counts) == (len(ranks), {})
