"""Where a phrase is: maps by hand, Flickr30k Entities and RefCOCO in their releases, segmentation, the oracle."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from eval.benchmarks.catalogue import benchmark
from eval.benchmarks.flickr30k_entities import flickr30k_entities, flickr30k_entities_attention
from eval.benchmarks.oracle import OracleFile
from eval.benchmarks.refcoco import RefCoco
from eval.benchmarks.segmentation import Segmentation, iou_items, overlaps, starts
from eval.interfaces import EvalContext
from eval.protocols.phrase_grounding import (
    best_box_is_right,
    by_attention,
    by_similarity,
    overlap,
    peak_is_inside,
    upsample_map,
)
from eval.results.compare import intervals, numbers_of
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import DualEncoder, TextConditionedPooling
from tests.eval import releases
from tests.eval.official import COLOURS, ColourModel, paint, write_json
from tests.helpers.tiny_run import TINY


class Attentive(ColourModel):
    """Looks where the colour is; what it sees is what it was asked for."""

    def attend(self, texts, dense, image):
        return (30 * dense.flatten(2).mT[image] * texts[:, None]).sum(2).softmax(1)

    def condition(self, texts, dense, image):
        return texts


def test_the_point_must_lie_strictly_inside():
    pixel_map = torch.zeros(10, 20)
    pixel_map[4, 7] = pixel_map[8, 8] = 1.0  # equal: the first row by row counts
    assert peak_is_inside(pixel_map, [(6, 3, 8, 5)])
    assert not peak_is_inside(pixel_map, [(7, 3, 9, 5)])
    assert not peak_is_inside(pixel_map, [(6, 3, 7, 5)])
    assert not peak_is_inside(pixel_map, [(7.5, 7, 9, 9)])
    assert peak_is_inside(pixel_map, [(0, 0, 2, 2), (6.9, 3.9, 7.1, 4.1)])


def test_a_map_is_drawn_to_the_image_s_shape():
    pixel_map = upsample_map(torch.tensor([0.0, 1.0, 0.0, 0.0]), (40, 20))
    assert pixel_map.shape == (20, 40)
    y, x = divmod(int(pixel_map.argmax()), 40)
    assert y < 10
    assert x >= 20


def test_overlap_in_whole_pixels_against_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        box, other_box = (tuple(float(v) for v in rng.integers(1, 20, 4)) for _ in range(2))

        def covered(box):
            x, y, width, height = map(int, box)
            return {(i, j) for i in range(x, x + width) for j in range(y, y + height)}

        intersection, union = covered(box) & covered(other_box), covered(box) | covered(other_box)
        columns, rows = ({p[i] for p in intersection} for i in (0, 1))
        thin = len(columns) < 2 or len(rows) < 2  # a common line of one pixel counts as nothing, as published
        assert overlap(box, other_box) == pytest.approx(0.0 if thin else len(intersection) / len(union))


def test_the_best_box_weighs_its_sum_by_its_area():
    pixel_map = torch.zeros(20, 20)
    pixel_map[5:10, 5:10] = 1.0
    right, whole_image, corner = (5.0, 5.0, 5.0, 5.0), (0.0, 0.0, 20.0, 20.0), (0.0, 0.0, 3.0, 3.0)
    assert best_box_is_right(pixel_map, [whole_image, right, corner], [(5, 5, 10, 10)])
    assert best_box_is_right(
        pixel_map, [whole_image, right, corner], [(0, 0, 3, 3), (5, 5, 10, 11)]
    )  # any box of the phrase
    assert not best_box_is_right(pixel_map, [whole_image, corner], [(5, 5, 10, 10)])
    assert not best_box_is_right(pixel_map, [], [(5, 5, 10, 10)])
    assert not best_box_is_right(pixel_map, [(5.0, 5.0, 0.0, 5.0)], [(5, 5, 10, 10)])


def write_entities(root):
    """One image of test, red left and blue right, and one of train."""
    folder = root / "flickr30k_entities"
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True)
    (folder / "test.txt").write_text("11\n")
    (folder / "Sentences" / "11.txt").write_text(
        "[/EN#1/other A red wall] beside [/EN#2/other a blue wall] in [/EN#3/scene a green place] .\n"
        "[/EN#2/other The blue one] , [/EN#0/notvisual red] , [/EN#1/other blue]\n"
    )
    objects = [("1", (1, 1, 21, 21)), ("2", (21, 1, 41, 21))]
    boxes = "".join(
        f"<object><name>{chain}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for chain, (a, b, c, d) in objects
    )
    size = "<size><width>40</width><height>20</height><depth>3</depth></size>"
    scene = "<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object>"
    (folder / "Annotations" / "11.xml").write_text(f"<annotation>{size}{boxes}{scene}</annotation>")
    paint(root / "flickr30k-images" / "11.jpg", (40, 20), ("red", (0, 0, 20, 20)), ("blue", (20, 0, 40, 20)))


@pytest.mark.parametrize("point", [flickr30k_entities, flickr30k_entities_attention])
def test_flickr30k_entities_by_hand(tmp_path, point):
    write_entities(tmp_path)
    result = point(Attentive(), EvalContext(tmp_path))
    name = point.__name__
    assert result.numbers == {  # "blue" for the red wall
        f"{name}/pointing_accuracy": 0.75,
        f"{name}/annotated_box_accuracy": 0.75,
        f"{name}/phrases": 4.0,
    }
    assert result.counts == {"phrase without a box": 2, "box score left out: no dets.json": 1}
    table = result.items[name].columns
    assert table["text"] == ["A red wall", "a blue wall", "The blue one", "blue"]
    assert table["pointed"] == table["annotated_box"] == [True, True, True, False]
    # a detector that saw the left half and a stripe in the middle
    write_json(tmp_path / "flickr30k_entities" / "dets.json", {"11": [[0, 0, 20, 20], [14, 0, 12, 20]]})
    result = point(Attentive(), EvalContext(tmp_path))
    assert result.items[name].columns["box"] == [True, False, False, False]
    assert (result.numbers[f"{name}/box_accuracy"], len(result.settings["files"]["dets.json"])) == (0.25, 64)
    (tmp_path / "flickr30k_entities" / "Annotations" / "11.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match=r"11\.xml is not XML"):
        point(Attentive(), EvalContext(tmp_path))


def write_refcoco(root, dets=True):
    folder = root / "refcoco"
    folder.mkdir()
    name = "COCO_train2014_000000000004.jpg"
    paint(root / "train2014" / name, (40, 20), ("red", (0, 0, 20, 20)), ("blue", (20, 0, 40, 20)))
    refs = [
        {"ref_id": n, "ann_id": ann, "image_id": 4, "split": split, "sentences": [{"sent": s} for s in expressions]}
        for n, (ann, split, expressions) in enumerate(
            [(1, "train", ["no"]), (1, "testA", ["red thing", "blue thing"]), (2, "val", ["the blue"])]
        )
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    boxes = [{"id": 1, "image_id": 4, "bbox": [0, 0, 20, 20]}, {"id": 2, "image_id": 4, "bbox": [20, 0, 20, 20]}]
    write_json(
        folder / "instances.json", {"images": [{"id": 4, "file_name": name[:-4] + "_2.jpg"}], "annotations": boxes}
    )
    if dets:
        write_json(folder / "dets.json", {"4": [[0, 0, 20, 20], [19, 0, 21, 20], [0, 0, 40, 20]]})


@pytest.mark.parametrize("maps", [by_similarity, by_attention])
def test_refcoco_by_hand(tmp_path, maps):
    write_refcoco(tmp_path)
    result = RefCoco("refcoco", maps)(Attentive(), EvalContext(tmp_path))
    assert result.numbers["refcoco/testA/pointing_accuracy"] == 0.5
    assert result.numbers["refcoco/testA/box_accuracy"] == 0.5
    assert result.numbers["refcoco/testA/annotated_box_accuracy"] == 0.5
    assert result.numbers["refcoco/val/phrases"] == 1
    assert result.numbers["refcoco/val/pointing_accuracy"] == 1.0
    assert set(result.settings["files"]) == {"refs(unc).p", "instances.json", "dets.json"}
    assert result.counts == {}


def test_refcoco_without_detections_says_so(tmp_path):
    write_refcoco(tmp_path, dets=False)
    result = benchmark("refcoco")(ColourModel(), EvalContext(tmp_path))
    assert result.counts == {"box score left out: no dets.json": 1}
    assert {name.partition("/")[0] for name in result.numbers if "box" in name} == {"refcoco"}
    assert {name.split("/")[-1] for name in result.numbers if "box" in name} == {"annotated_box_accuracy"}
    with pytest.raises(FileNotFoundError, match=r"holds no refcoco\+, no refer/data/refcoco\+"):
        benchmark("refcoco+")(ColourModel(), EvalContext(tmp_path))
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([Path("a")]))
    with pytest.raises(ValueError, match=r"is no pickle of plain data: it names"):
        benchmark("refcoco")(ColourModel(), EvalContext(tmp_path))


def test_attention_is_asked_of_a_model_that_has_it(tmp_path):
    write_refcoco(tmp_path)
    torch.manual_seed(0)
    plain = EvaluationModel(DualEncoder(TINY), torch.device("cpu"))
    with pytest.raises(ValueError, match="needs text-conditioned attention"):
        benchmark("refcoco_attention")(plain, EvalContext(tmp_path))
    pooling = TextConditionedPooling(16, 4)
    model = EvaluationModel(DualEncoder(TINY), torch.device("cpu"), pooling)
    assert (
        0
        <= benchmark("refcoco_attention")(model, EvalContext(tmp_path)).numbers["refcoco_attention/val/box_accuracy"]
        <= 1
    )
    texts, dense = torch.nn.functional.normalize(torch.randn(3, 16), dim=1), torch.randn(2, 16, 2, 2)
    image = torch.tensor([1, 0, 1])
    heat = model.attend(texts, dense, image)
    patches = torch.nn.functional.normalize(dense.flatten(2).mT, dim=-1)
    for t in range(3):
        expected = pooling.attention(texts[t][None, None], patches[image[t]][None])[0, 0]
        torch.testing.assert_close(heat[t], expected)
        view = pooling(texts[t][None, None], patches[image[t]][None])[0, 0]
        torch.testing.assert_close(model.condition(texts, dense, image)[t], view)


def write_segmentation(root, size=(48, 24)):
    """Red left, blue right; the last column is not asked."""
    width, height = size
    half = width // 2
    paint(root / "s" / "images" / "a.png", size, ("red", (0, 0, half, height)), ("blue", (half, 0, width, height)))
    labels = np.zeros((height, width), np.uint8)
    labels[:, half:] = 1
    labels[:, -1] = 255
    (root / "s" / "labels").mkdir()
    Image.fromarray(labels).save(root / "s" / "labels" / "a.png")
    (root / "s" / "classnames.txt").write_text("green thing, red thing\nblue thing\ngreen place\n")
    return labels


def test_segmentation_of_two_halves(tmp_path):
    write_segmentation(tmp_path)
    result = Segmentation("s")(ColourModel(), EvalContext(tmp_path, batch_size=3))
    assert result.numbers["segmentation:s/mean_IoU"] > 0.9
    assert result.numbers["segmentation:s/pixel_accuracy"] > 0.95
    assert result.settings["classes"] == 3
    assert Segmentation("s")(ColourModel(), EvalContext(tmp_path, batch_size=1)).numbers == result.numbers


def test_segmented_classes_one_by_one(tmp_path):
    labels = write_segmentation(tmp_path)
    result = Segmentation("s")(ColourModel(), EvalContext(tmp_path))
    table = result.items["segmentation:s"]
    columns = table.columns
    assert columns["image"] == ["a.png"] * 2
    assert columns["class"] == ["green thing, red thing", "blue thing"]
    assert columns["pixels"] == [int((labels == n).sum()) for n in (0, 1)]
    assert result.numbers["segmentation:s/mean_IoU"] == pytest.approx(sum(columns["IoU"]) / 2)
    low, high = intervals(table, 10)["segmentation:s/mean_IoU"]
    assert low == high == pytest.approx(result.numbers["segmentation:s/mean_IoU"])  # one image, drawn again
    share = sum(columns["intersection"]) / sum(columns["pixels"])
    assert (
        result.numbers["segmentation:s/pixel_accuracy"]
        == share
        == intervals(table, 10)["segmentation:s/pixel_accuracy"].low
    )


def test_mean_iou_against_scikit_learn():
    rng = np.random.default_rng(0)
    right, predicted = (
        rng.integers(0, 4, 500),
        rng.integers(0, 5, 500),
    )  # the last of six neither stands nor is predicted
    maps = [torch.from_numpy(labels).view(2, 10, 25) for labels in (right, predicted)]
    per_map = [overlaps(labels, prediction, 6) for labels, prediction in zip(*maps, strict=True)]
    rows = torch.cat(
        [torch.cat([torch.full((len(overlap), 1), number), overlap], dim=1) for number, overlap in enumerate(per_map)]
    )
    numbers = numbers_of(iou_items("x", rows, ["a.png", "b.png"], list("abcdef")))
    assert numbers["x/mean_IoU"] == pytest.approx(jaccard_score(right, predicted, average="macro"))
    assert numbers["x/pixel_accuracy"] == pytest.approx((right == predicted).mean())


def test_label_maps_without_a_pixel_are_refused(tmp_path):
    labels = write_segmentation(tmp_path)
    for file in (tmp_path / "s" / "labels").iterdir():
        Image.fromarray(np.full(labels.shape, 255, dtype=np.uint8)).save(file)
    with pytest.raises(ValueError, match="must hold a pixel that is not 255"):
        Segmentation("s")(ColourModel(), EvalContext(tmp_path))


@pytest.mark.parametrize(("length", "expected"), [(16, [0]), (24, [0, 8]), (30, [0, 8, 14]), (17, [0, 1])])
def test_windows_reach_the_end(length, expected):
    assert starts(length, 16) == expected


def test_label_maps_that_do_not_fit_are_refused(tmp_path):
    write_segmentation(tmp_path)
    file = tmp_path / "s" / "labels" / "a.png"
    Image.fromarray(np.full((24, 48), 3, np.uint8)).save(file)
    with pytest.raises(ValueError, match=r"a\.png must hold numbers below 3, or 255, got 3"):
        Segmentation("s")(ColourModel(), EvalContext(tmp_path))
    one = np.zeros((24, 48), np.uint8)
    one[5, 7] = 9
    Image.fromarray(one).save(file)
    with pytest.raises(ValueError, match=r"a\.png must hold numbers below 3, or 255, got 9"):
        Segmentation("s")(ColourModel(), EvalContext(tmp_path))
    Image.fromarray(np.zeros((24, 47), np.uint8)).save(file)
    with pytest.raises(
        ValueError, match=r"a\.png must have 47×24 pixels, as its label map labels/a\.png says, got 48×24"
    ):
        Segmentation("s")(ColourModel(), EvalContext(tmp_path))
    Image.new("RGB", (48, 24)).save(file)
    with pytest.raises(ValueError, match=r"a\.png is no label map: its pixels must be numbers, got mode RGB"):
        Segmentation("s")(ColourModel(), EvalContext(tmp_path))
    file.unlink()
    with pytest.raises(FileNotFoundError, match="every image must have a label map"):
        Segmentation("s")(ColourModel(), EvalContext(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"caf\xe9\n", r"classnames\.txt is not UTF-8"), (b"\n", r"classnames\.txt must hold a class a line, got none")],
)
def test_class_names_that_are_none(tmp_path, content, message):
    write_segmentation(tmp_path)
    (tmp_path / "s" / "classnames.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Segmentation("s")(ColourModel(), EvalContext(tmp_path))


def test_the_oracle_is_labelled_and_always_right(tmp_path):
    """The images are all alike: nobody could tell them apart, but the oracle has seen the answers."""
    for number in range(3):
        releases.plain(tmp_path / f"{number}.png", "red")
    table = [{"image": f"{n}.png", "caption": f"a {colour} thing"} for n, colour in enumerate(COLOURS)]
    releases.write_csv(tmp_path / "m.csv", table)
    leaking = OracleFile("m.csv")(Attentive(), EvalContext(tmp_path))
    assert leaking.numbers["oracle:m (leaks)/text_to_image/R@1"] == 1.0
    assert all("(leaks)" in name for name in leaking.numbers)
    assert leaking.settings["protocol"].startswith("LEAKS")
    honest = benchmark("retrieval:m.csv")(Attentive(), EvalContext(tmp_path))
    assert honest.numbers["retrieval:m/text_to_image/strict_R@1"] == 0.0
    assert math.isclose(honest.numbers["retrieval:m/image_to_text/R@1"], 1 / 3)
