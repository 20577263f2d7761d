"""CLIPSelf's protocol: by hand with colours, and against loops with an encoder."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pad, resize

from eval.benchmarks import clipself_boxes
from eval.benchmarks.clipself_boxes import coco_panoptic_clipself, patches_of, segment_crop, unpack
from eval.data.cache import Cache
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext
from eval.protocols.embed import as_pixels
from eval.protocols.panoptic_files import Segment, SegmentedImage, read_panoptic
from eval.protocols.prompts import VILD_TEMPLATES, class_vectors
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import DualEncoder
from tests.eval.benchmarks.test_coco_boxes import crop
from tests.eval.official import ColourModel, rows, write_json, write_panoptic
from tests.helpers.tiny_run import TINY
from tests.lightning_modules.networks.test_image_positions import cubic

NAME = "coco_panoptic_clipself"
WAYS = [f"{way}/{kind}" for way in ("rois", "masks", "crops") for kind in ("thing", "stuff")]


def test_things_and_stuff_in_three_ways(tmp_path):
    write_panoptic(tmp_path)
    result = coco_panoptic_clipself(ColourModel(), EvalContext(tmp_path))
    assert {name.removeprefix(f"{NAME}/").rpartition("/")[0] for name in result.numbers} == set(WAYS)
    for way in WAYS:
        assert result.numbers[f"{NAME}/{way}/class_mean_top1"] == 1.0
        assert result.numbers[f"{NAME}/{way}/boxes"] == 1
    table = result.items[f"{NAME}/masks/stuff"].columns
    assert (table["class"], table["chosen"]) == (["green-merged or grass"], ["green-merged or grass"])
    assert (result.settings["image"], result.settings["crop"]) == ("longest, 256×256", "letterbox, 16×16")
    assert result.counts == {"box under 8² or over 1024² pixels": 2}
    with pytest.raises(ValueError, match=f"{NAME} prepares images in its own way"):
        coco_panoptic_clipself(ColourModel(), EvalContext(tmp_path, fit=clipself_boxes.longest))


def test_the_cache_knows_the_larger_image_from_the_small_one(tmp_path):
    write_panoptic(tmp_path)
    cache = Cache(tmp_path / "cache")
    first = coco_panoptic_clipself(ColourModel(), EvalContext(tmp_path, cache=cache))
    assert cache.hits == 0
    assert coco_panoptic_clipself(ColourModel(), EvalContext(tmp_path, cache=cache)) == first
    assert cache.hits == 3  # classes, regions, crops


def write_noise(root):
    """An image of 40×30 of noise, three segments of ragged shape, and four classes more."""
    write_panoptic(root)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(root / "val2017" / "000000000005.png")
    ids = np.zeros((30, 40), dtype=np.uint8)
    ids[2:25, 3:20], ids[8:29, 18:39] = 1, 2
    ids[rng.random(ids.shape) < 0.3] = 3
    maps = np.stack([ids, np.zeros_like(ids), np.zeros_like(ids)], axis=-1)
    Image.fromarray(maps).save(root / "annotations" / "panoptic_val2017" / "000000000005.png")
    file = root / "annotations" / "panoptic_val2017.json"
    document = rows(file)
    document["images"][0] |= {"width": 40, "height": 30}
    document["annotations"][0]["segments_info"] = [
        {"id": 1, "category_id": 1, "bbox": [3, 2, 17.5, 23], "area": 1, "iscrowd": 1},
        {"id": 2, "category_id": 200, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0},
        {"id": 3, "category_id": 201, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0},
    ]
    document["categories"] += [{"id": 201 + n, "name": f"thing {n}", "isthing": 0} for n in range(4)]
    write_json(file, document)
    return ids


def shows(mask, side):
    """Whether each patch of a grid over the image's longer side shows a mask, by the definition of bicubic."""
    height, width = mask.shape
    shown = torch.zeros(side, side, dtype=torch.float64)
    down, across = round(height * side / width), side
    for i in range(down):
        for j in range(across):
            y, x = (i + 0.5) * height / down - 0.5, (j + 0.5) * width / across - 0.5
            total = 0.0
            for r in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
                for c in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                    cell = mask[min(max(r, 0), height - 1), min(max(c, 0), width - 1)]
                    total += cubic(y - r) * cubic(x - c) * float(cell)
            shown[i, j] = total > 1e-9
    return shown


def test_all_ways_against_loops(tmp_path, monkeypatch):
    monkeypatch.setattr(clipself_boxes, "GRID", 8)
    ids = write_noise(tmp_path)
    torch.manual_seed(0)
    encoder = DualEncoder(TINY)
    for weight in encoder.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)  # so that answers differ
    model = EvaluationModel(encoder, torch.device("cpu"))
    rows_of, grade = {}, clipself_boxes.grade

    def watch(name, rows, *arguments):
        rows_of[name.removeprefix(f"{NAME}/")] = rows.double()
        return grade(name, rows, *arguments)

    monkeypatch.setattr(clipself_boxes, "grade", watch)
    result = coco_panoptic_clipself(model, EvalContext(tmp_path))
    data = read_panoptic(EvalContext(tmp_path))
    classes = class_vectors(model.encode_text, data.classes, VILD_TEMPLATES).double()

    image = Image.open(tmp_path / "val2017" / "000000000005.png")
    square = pad(resize(image, [48, 64], InterpolationMode.BICUBIC), [0, 0, 0, 16])
    dense = functional.normalize(model.with_grid(8).encode_image(as_pixels(square)[None]).tokens[0].double(), dim=1)
    boxes = {1: (3, 2, 17.5, 23)} | {n: tight(ids == n) for n in (2, 3)}
    cuts = {1: (0, 0, 25, 30)} | {n: (x, y, x + w, y + h) for n, (x, y, w, h) in boxes.items() if n > 1}
    expected, vectors = {}, {}
    for n, label in ((1, 0), (2, 2), (3, 3)):
        kind = "thing" if n == 1 else "stuff"
        roi = torch.from_numpy(crop(dense.view(8, 8, -1).numpy(), boxes[n], (40, 40)))
        masked = (shows(ids == n, 8).view(-1, 1) * dense).sum(0)
        part = image.crop(cuts[n])
        scale = 16 / max(part.size)
        size = [round(part.height * scale), round(part.width * scale)]
        left, top = (16 - size[1]) // 2, (16 - size[0]) // 2
        framed = pad(
            resize(part, size, InterpolationMode.BICUBIC), [left, top, 16 - size[1] - left, 16 - size[0] - top]
        )
        cut = model.encode_image(as_pixels(framed)[None]).image[0].double()
        for way, vector in (("rois", roi), ("masks", masked), ("crops", cut)):
            scores = classes @ vector
            vectors.setdefault(f"{way}/{kind}", []).append(functional.normalize(vector, dim=0))
            expected.setdefault(f"{way}/{kind}", []).append(int((scores > scores[label]).sum()))
    for way in WAYS:
        torch.testing.assert_close(rows_of[way], torch.stack(vectors[way]), atol=1e-5, rtol=0)
        assert result.items[f"{NAME}/{way}"].columns["rank"] == expected[way], way
    assert len({rank for ranks in expected.values() for rank in ranks}) > 2


def tight(mask):
    ys, xs = np.where(mask)
    return tuple(float(v) for v in (xs.min(), ys.min(), xs.max() - xs.min(), ys.max() - ys.min()))


def test_a_mask_on_no_patch_is_pooled_by_its_box_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(clipself_boxes, "GRID", 4)
    write_panoptic(tmp_path)
    monkeypatch.setattr(clipself_boxes, "patches_of", lambda mask: bytes(2))
    result = coco_panoptic_clipself(ColourModel(), EvalContext(tmp_path))
    assert result.counts["segment that shows on no patch, its box pooled"] == 2
    masks, rois = (result.items[f"{NAME}/{way}/stuff"].columns for way in ("masks", "rois"))
    assert masks == rois


def test_patches_by_hand(monkeypatch):
    monkeypatch.setattr(clipself_boxes, "GRID", 4)
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, :4] = True
    grid = unpack([patches_of(mask), patches_of(~mask)]).view(2, 4, 4)
    assert grid[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert grid[1].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0] * 4, [0] * 4]


@pytest.mark.parametrize(
    ("xywh", "thing", "box"),
    [
        ((10, 10, 20, 10), True, (5, 8, 35, 22)),  # 7.5 and 22.5 are rounded to even, as PIL rounds
        ((10, 10, 20, 10), False, (10, 10, 30, 20)),
        ((0, 5, 40, 25), True, (0, 0, 40, 30)),
        ((3.2, 4, 0.2, 400), False, (3, 4, 4, 30)),
    ],
)
def test_what_is_cut_out(tmp_path, xywh, thing, box):
    image = SegmentedImage(ImageFile(tmp_path, "a", (40, 30)), [])
    assert segment_crop(image, Segment((0, 0, 1, 1), xywh, 0, thing, None)).box == box
