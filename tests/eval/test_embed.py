"""Embedding a data set: cached, on several ranks too."""

import json

import pytest
import torch.distributed as dist

from eval.benchmarks.coco_captions import coco_val2017
from eval.data.cache import Cache
from eval.data.image_preprocessing import squash
from eval.interfaces import EvalContext
from eval.protocols.embed import embed_texts
from tests.eval import releases
from tests.eval.official import ColourModel
from tests.helpers.ranks import run_on_ranks


class Counting(ColourModel):
    """Counts what it embeds."""

    def __init__(self):
        super().__init__()
        self.images = 0

    def encode_image(self, squares):
        self.images += len(squares)
        return super().encode_image(squares)


def test_embeddings_are_computed_once(tmp_path):
    releases.write_val2017(tmp_path)
    cache, first, second = Cache(tmp_path / "cache"), Counting(), Counting()
    expected = coco_val2017(first, EvalContext(tmp_path, cache=cache))
    assert (first.images, len(first.texts), cache.hits) == (3, 14, 0)  # one of 15 texts stands twice
    assert coco_val2017(second, EvalContext(tmp_path, cache=cache)) == expected
    assert (second.images, len(second.texts), cache.hits) == (0, 0, 2)
    descriptions = [json.loads(file.read_text()) for file in sorted((tmp_path / "cache").glob("*.json"))]
    assert {description["of"] for description in descriptions} == {"3 images", "14 texts"}
    assert {description["model"] for description in descriptions} == {"colours"}


@pytest.mark.parametrize("change", ["model", "image", "fit"])
def test_what_changes_embeddings_is_not_taken_from_the_cache(tmp_path, change):
    releases.write_val2017(tmp_path)
    cache, model, fit = Cache(tmp_path / "cache"), Counting(), None
    coco_val2017(Counting(), EvalContext(tmp_path, cache=cache))
    if change == "model":
        model.digest = "other weights"
    elif change == "image":
        releases.plain(tmp_path / "val2017" / f"{10:012d}.jpg", "red", (25, 20))
    else:
        fit = squash
    coco_val2017(model, EvalContext(tmp_path, cache=cache, fit=fit))
    assert model.images == 3


def test_damaged_files_of_the_cache_are_told(tmp_path):
    cache, model = Cache(tmp_path), ColourModel()
    run = EvalContext(tmp_path, cache=cache)
    rows = embed_texts(model, run, ["red", "blue", "red"], "x")
    assert rows.tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 0]]
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"the cached embeddings .*\.npy cannot be read: .* delete the file"):
        embed_texts(model, run, ["red", "blue", "red"], "x")


@pytest.mark.slow
def test_ranks_agree_where_a_cache_is_there_for_one_alone(tmp_path):
    releases.write_val2017(tmp_path)
    coco_val2017(ColourModel(), EvalContext(tmp_path, cache=Cache(tmp_path / "0")))
    expected = coco_val2017(ColourModel(), EvalContext(tmp_path)).numbers
    assert run_on_ranks(with_own_cache, 2, tmp_path) == [expected] * 2


def with_own_cache(root):
    return coco_val2017(ColourModel(), EvalContext(root, cache=Cache(root / str(dist.get_rank())))).numbers


def test_fits_that_move_boxes_are_refused(tmp_path):
    from eval.benchmarks.coco_boxes import coco_boxes
    from eval.benchmarks.fgovd import fgovd, fgovd_crop
    from eval.data.image_preprocessing import centre_crop, squash_bilinear
    from tests.eval.fgovd_release import write_fgovd
    from tests.eval.official import write_coco

    write_fgovd(tmp_path)
    write_coco(tmp_path)
    with pytest.raises(ValueError, match="fgovd: --fit must be of squash, squash_bilinear, longest, got centre_crop"):
        fgovd(ColourModel(), EvalContext(tmp_path, fit=centre_crop))
    with pytest.raises(ValueError, match="coco_boxes prepares images in its own way, --fit does not apply, got squash"):
        coco_boxes(ColourModel(), EvalContext(tmp_path, fit=squash))
    assert (
        fgovd(ColourModel(), EvalContext(tmp_path, fit=squash_bilinear)).settings["image"].startswith("squash_bilinear")
    )
    assert fgovd_crop(ColourModel(), EvalContext(tmp_path, fit=squash)).settings["image"].startswith("squash,")
