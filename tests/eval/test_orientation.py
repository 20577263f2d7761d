"""Images that are stored turned: evaluation reads them upright, and boxes of either convention stay in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.image_decoding import turned_size
from eval.benchmarks.clipself_boxes import coco_panoptic_clipself
from eval.benchmarks.coco_boxes import coco_boxes
from eval.benchmarks.fgovd import fgovd, fgovd_crop
from eval.benchmarks.flickr30k_entities import flickr30k_entities
from eval.benchmarks.refcoco import RefCoco
from eval.benchmarks.segmentation import Segmentation
from eval.interfaces import EvalContext
from eval.protocols.phrase_grounding import by_similarity, turn_back
from tests.eval.benchmarks.test_localisation import write_entities, write_refcoco, write_segmentation
from tests.eval.fgovd_release import write_fgovd
from tests.eval.official import ColourModel, rows, write_coco, write_json, write_panoptic
from tests.helpers.tiny import TURNS, turned_away


def store_turned(file: Path, turn: int) -> None:
    """The same image to whoever honours EXIF, its pixels stored otherwise."""
    with Image.open(file) as image:
        upright = image.convert("RGB")
    file.write_bytes(turned_away(upright, turn, "PNG"))


def redraw(document: dict, turn: int) -> None:
    """Boxes and sizes of COCO's layout as somebody writes them who sees the stored pixels."""
    sizes = {}
    for image in document["images"]:
        sizes[image["id"]] = (image["width"], image["height"])
        image["width"], image["height"] = turned_size(sizes[image["id"]], turn)
    for row in document["annotations"]:
        width, height = sizes[row["image_id"]]
        x, y, w, h = row["bbox"]
        mask = np.zeros((height, width))
        mask[round(y) : round(y + h), round(x) : round(x + w)] = 1
        ys, xs = np.nonzero(turn_back(torch.from_numpy(mask), turn).numpy())
        row["bbox"] = [int(v) for v in (xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min())]


@pytest.mark.parametrize("turn", TURNS)
def test_what_is_drawn_over_the_upright_image_goes_back_to_the_stored_pixels(tmp_path, turn):
    upright = np.arange(6 * 4, dtype=np.uint8).reshape(4, 6)
    file = tmp_path / "a.png"
    file.write_bytes(turned_away(Image.fromarray(upright), turn, "PNG"))
    with Image.open(file) as image:
        assert np.array_equal(turn_back(torch.from_numpy(upright), turn).numpy(), np.asarray(image))


@pytest.mark.parametrize("turn", TURNS[1:])
def test_boxes_of_the_upright_image(tmp_path, turn):
    file = write_coco(tmp_path)
    expected = coco_boxes(ColourModel(), EvalContext(tmp_path)).numbers
    for image_file in (tmp_path / "val2017").iterdir():
        store_turned(image_file, turn)
    assert coco_boxes(ColourModel(), EvalContext(tmp_path)).numbers == expected
    document = rows(file)
    document["images"][0]["width"] = 30
    write_json(file, document)
    with pytest.raises(ValueError, match="must have 30×20 pixels, as its annotation says, got 40×20"):
        coco_boxes(ColourModel(), EvalContext(tmp_path))


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_boxes_of_the_stored_pixels_are_turned_with_them(tmp_path, turn):
    file = write_coco(tmp_path)
    expected = coco_boxes(ColourModel(), EvalContext(tmp_path)).numbers
    for image_file in (tmp_path / "val2017").iterdir():
        store_turned(image_file, turn)
    document = rows(file)
    redraw(document, turn)
    write_json(file, document)
    assert coco_boxes(ColourModel(), EvalContext(tmp_path)).numbers == expected


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
@pytest.mark.parametrize("cut_out", [True, False])
def test_questions_about_boxes_of_the_stored_pixels(tmp_path, turn, cut_out):
    write_fgovd(tmp_path)
    benchmark = fgovd_crop if cut_out else fgovd
    document = rows(tmp_path / "benchmarks" / "1_attributes.json")
    document["annotations"][1]["bbox"] = [20, 0, 20, 20]  # whole pixels
    stems = ("1_attributes", "2_attributes", "3_attributes", "shuffle_negatives")
    for stem in stems:
        write_json(tmp_path / "benchmarks" / f"{stem}.json", document)
    expected = benchmark(ColourModel(), EvalContext(tmp_path)).numbers
    for folder in ("val2017", "train2017"):
        for image_file in (tmp_path / folder).iterdir():
            store_turned(image_file, turn)
    redraw(document, turn)
    for stem in stems:
        write_json(tmp_path / "benchmarks" / f"{stem}.json", document)
    assert benchmark(ColourModel(), EvalContext(tmp_path)).numbers == expected


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_grounding_in_both_conventions(tmp_path, turn):
    write_refcoco(tmp_path)
    image_file = next((tmp_path / "train2014").iterdir())
    expected = RefCoco("refcoco", by_similarity)(ColourModel(), EvalContext(tmp_path)).numbers
    store_turned(image_file, turn)
    assert RefCoco("refcoco", by_similarity)(ColourModel(), EvalContext(tmp_path)).numbers == expected
    if turn == 3:
        return
    file = tmp_path / "refcoco" / "instances.json"
    document = rows(file)
    document["images"][0] |= {"width": 40, "height": 20}
    redraw(document, turn)
    write_json(file, document)
    write_json(tmp_path / "refcoco" / "dets.json", {"4": [b["bbox"] for b in document["annotations"]]})
    numbers = RefCoco("refcoco", by_similarity)(ColourModel(), EvalContext(tmp_path)).numbers
    pointed = [name for name in expected if name.endswith(("pointing_accuracy", "annotated_box_accuracy"))]
    assert {name: numbers[name] for name in pointed} == {name: expected[name] for name in pointed}


def test_phrases_of_flickr30k_are_looked_for_in_the_upright_image(tmp_path):
    write_entities(tmp_path)
    expected = flickr30k_entities(ColourModel(), EvalContext(tmp_path)).numbers
    store_turned(tmp_path / "flickr30k-images" / "11.jpg", 8)
    assert flickr30k_entities(ColourModel(), EvalContext(tmp_path)).numbers == expected
    xml = tmp_path / "flickr30k_entities" / "Annotations" / "11.xml"
    xml.write_text(xml.read_text().replace("<width>40", "<width>50"))
    with pytest.raises(ValueError, match=r"11\.jpg must have 50×20 pixels, as its annotation says, got 40×20"):
        flickr30k_entities(ColourModel(), EvalContext(tmp_path))


def test_label_maps_of_both_conventions(tmp_path):
    write_segmentation(tmp_path)
    expected = Segmentation("s")(ColourModel(), EvalContext(tmp_path)).numbers
    for image_file in (tmp_path / "s" / "images").iterdir():
        store_turned(image_file, 6)
    assert Segmentation("s")(ColourModel(), EvalContext(tmp_path)).numbers == expected
    for labels in (tmp_path / "s" / "labels").iterdir():
        with Image.open(labels) as image:
            stored = image.transpose(Image.Transpose.ROTATE_90)
        stored.save(labels)
    assert Segmentation("s")(ColourModel(), EvalContext(tmp_path)).numbers == expected


def test_segment_maps_of_stored_pixels_are_refused(tmp_path):
    file = write_panoptic(tmp_path)
    expected = coco_panoptic_clipself(ColourModel(), EvalContext(tmp_path)).numbers
    store_turned(tmp_path / "val2017" / "000000000005.png", 6)
    assert coco_panoptic_clipself(ColourModel(), EvalContext(tmp_path)).numbers == expected
    document = rows(file)
    document["images"][0] |= {"width": 20, "height": 40}
    write_json(file, document)
    labels = tmp_path / "annotations" / "panoptic_val2017" / "000000000005.png"
    with Image.open(labels) as image:
        stored = image.transpose(Image.Transpose.ROTATE_90)
    stored.save(labels)
    with pytest.raises(ValueError, match=r"5\.png is stored turned \(EXIF orientation 6\) and its segment map is not"):
        coco_panoptic_clipself(ColourModel(), EvalContext(tmp_path))
