"""Multiple choice from released files: FG-OVD in both forms and protocols, SugarCrepe, ARO, Winoground."""

import hashlib

import pytest
import torch

from eval.benchmarks.aro import aro_attribution, aro_relation
from eval.benchmarks.fgovd import (
    FgovdFile,
    fgovd,
    fgovd_attributes,
    fgovd_crop,
    official_ranks,
    read_fg_clip,
    read_official,
)
from eval.benchmarks.sugarcrepe import KINDS, sugarcrepe
from eval.benchmarks.winoground import winoground
from eval.interfaces import EvalContext
from eval.protocols.multiple_choice import Answers
from tests.eval.fgovd_release import write_fgovd
from tests.eval.official import ColourModel, paint, rows, write_json
from tests.eval.releases import plain, write_lines


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("protocol", [fgovd, fgovd_crop])
def test_fgovd_by_hand(tmp_path, official, protocol):
    write_fgovd(tmp_path, official)
    model, name = ColourModel(), protocol.__name__
    result = protocol(model, EvalContext(tmp_path, batch_size=1))
    numbers = {n.removeprefix(f"{name}/hard/"): v for n, v in result.numbers.items() if "/hard/" in n}
    assert numbers["accuracy"] == 0.75  # the tie is a hit
    assert numbers["ties"] == 0.25
    assert numbers["questions"] == 4
    assert numbers["chance"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 4 + 1 / 2) / 4)
    assert numbers["mean_rank_of_3"] == pytest.approx(
        4 / 3
    )  # of three boxes; one with three wrong texts by its first two
    assert "a red wall." in model.texts
    assert not [text for text in model.texts if not text.endswith(".")]
    assert {n.split("/")[1] for n in result.numbers} == {"hard", "medium", "easy", "trivial"}
    assert result.settings["levels"]["hard"] == {"boxes": 4, "images": 2}
    columns = result.items[f"{name}/hard"].columns
    assert columns["hit"] == [True, True, True, False]
    assert columns["chosen"][3] == "a blue wall."
    assert protocol(model, EvalContext(tmp_path, batch_size=5)).numbers == result.numbers
    file = next(tmp_path.rglob("*attributes*"))
    assert result.settings["files"][file.name] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("wrong", [1, 2, 7, 8, 10])
def test_fgovd_s_ranks_are_those_of_its_text(wrong):
    """``ranks.py``: of annotations with at least n negatives, the first n; rank = scores not below the positive's."""
    generator = torch.Generator().manual_seed(0)
    sizes = [7] * 20 + [8] * 9 + [10] * 4 + [2] * 11  # as in the files of patterns and transparency
    scores = [torch.randint(0, 5, (1 + size,), generator=generator) for size in sizes]
    expected = [
        1 + sum(int(s >= question[0]) for s in question[1 : 1 + wrong])
        for question in scores
        if len(question) - 1 >= wrong
    ]
    width = max(sizes)
    not_below = torch.tensor(
        [[*(question[1:] >= question[0]).tolist(), *[False] * (width - len(question) + 1)] for question in scores]
    )
    unused = torch.zeros(len(sizes), dtype=torch.long)
    answers = Answers(unused, unused, torch.tensor(sizes), unused, not_below)
    assert official_ranks(answers, wrong).tolist() == expected
    assert len(expected) == sum(size >= wrong for size in sizes)


def test_fgovd_s_mean_rank_reads_the_first_wrong_texts(tmp_path):
    """Most boxes have two wrong texts; of the box with three the tied one is now the third, and no longer counts."""
    write_fgovd(tmp_path)
    document = rows(tmp_path / "benchmarks" / "1_attributes.json")
    red, blue, green = document["annotations"][2]["neg_category_ids"]
    document["annotations"][2]["neg_category_ids"] = [red, green, blue]
    write_json(tmp_path / "benchmarks" / "color.json", document)
    numbers = FgovdFile("benchmarks/color.json")(ColourModel(), EvalContext(tmp_path)).numbers
    assert numbers["fgovd/color/mean_rank_of_3"] == 1.0


def test_both_forms_of_the_real_easy_file_agree(shared):
    folder = shared / "data" / "fgovd"
    official, _ = read_official(folder / "3_attributes.json", folder)
    fg_clip, _ = read_fg_clip(folder / "e_attributes_llava.jsonl", folder)
    assert len(official) == len(fg_clip) == 1299
    for box, other_box in zip(official, fg_clip, strict=True):
        assert (box.texts, box.image) == (other_box.texts, other_box.image)
        assert box.box == pytest.approx(other_box.box)
    assert sum(len(box.texts) for box in official) == 14_289
    assert len({box.image.name for box in official}) == 853
    document = rows(folder / "3_attributes.json")
    names = {c["id"]: c["name"] for c in document["categories"]}
    assert sum(not names[a["category_id"]].endswith(".") for a in document["annotations"]) == 137


def test_fgovd_counts_what_it_leaves_out(tmp_path):
    write_fgovd(tmp_path)
    file = tmp_path / "benchmarks" / "color.json"
    document = rows(tmp_path / "benchmarks" / "1_attributes.json")
    document["annotations"][1]["bbox"] = [5, 5, 0, 3]
    write_json(file, document)
    result = FgovdFile("benchmarks/color.json")(ColourModel(), EvalContext(tmp_path))
    assert (result.counts, result.numbers["fgovd/color/questions"]) == ({"box without area": 1}, 3)
    (tmp_path / "train2017" / "000000000008.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"^1 of the 2 files of .*color\.json are missing, such as .*--skip_m"):
        FgovdFile("benchmarks/color.json")(ColourModel(), EvalContext(tmp_path))
    result = FgovdFile("benchmarks/color.json")(ColourModel(), EvalContext(tmp_path, skip_missing=True))
    assert result.counts["image missing"] == 1
    assert result.counts["item of a missing image"] == 2
    with pytest.raises(FileNotFoundError, match=r"holds no benchmarks/material\.json, no fgovd/material_llava\.jsonl"):
        fgovd_attributes(ColourModel(), EvalContext(tmp_path))
    document["annotations"][0]["neg_category_ids"] = [100, 9]
    write_json(file, document)
    with pytest.raises(
        ValueError, match=r"'annotations\[id 0\].neg_category_ids' must be the id of one of 'categories'"
    ):
        FgovdFile("benchmarks/color.json")(ColourModel(), EvalContext(tmp_path))
    document["annotations"][0]["neg_category_ids"] = []
    write_json(file, document)
    with pytest.raises(ValueError, match="a question needs at least two texts"):
        FgovdFile("benchmarks/color.json")(ColourModel(), EvalContext(tmp_path, skip_missing=True))


def test_fgovd_refuses_images_of_another_size(tmp_path):
    write_fgovd(tmp_path)
    plain(tmp_path / "val2017" / "000000000007.jpg", "red")
    with pytest.raises(ValueError, match=r"7\.jpg must have 40×20 pixels, as its annotation says, got 24×20"):
        fgovd(ColourModel(), EvalContext(tmp_path))


def write_sugarcrepe(root):
    for colour in ("red", "green"):
        plain(root / "val2017" / f"{colour}.jpg", colour)
    for kind in KINDS:
        questions = [("red", "blue"), ("green", "blue"), ("red", "red")]  # the third is a tie
        document = {
            str(107 + 2 * n if kind == "swap_obj" else n): {  # no 108
                "filename": f"{'green' if right == 'green' else 'red'}.jpg",
                "caption": f"a {right} thing", "negative_caption": f"a {wrong} one",
            }
            for n, (right, wrong) in enumerate(questions)
        }  # fmt: skip
        if kind == "add_obj":
            document.pop("2")
        write_json(root / "data" / f"{kind}.json", document)


def test_sugarcrepe_skips_no_number_and_a_tie_is_a_miss(tmp_path):
    write_sugarcrepe(tmp_path)
    result = sugarcrepe(ColourModel(), EvalContext(tmp_path))
    assert result.numbers["sugarcrepe/swap_obj/questions"] == 3
    assert result.numbers["sugarcrepe/swap_obj/accuracy"] == pytest.approx(2 / 3)
    assert result.numbers["sugarcrepe/swap_obj/ties"] == pytest.approx(1 / 3)
    assert result.numbers["sugarcrepe/add_obj/accuracy"] == 1.0
    assert result.numbers["sugarcrepe/mean/accuracy"] == pytest.approx((6 * 2 / 3 + 1) / 7)
    assert len(result.settings["files"]) == 7
    model = ColourModel()
    model.context_length = 4  # words, SOT and EOT: "a red thing" and "a blue one" have five
    assert sugarcrepe(model, EvalContext(tmp_path)).settings["counts"] == {"text cut at 4 tokens": 40}
    model.context_length = 5
    assert sugarcrepe(model, EvalContext(tmp_path)).settings["counts"] == {}


def write_aro(root):
    paint(root / "images" / "1.jpg", (40, 20), ("red", (0, 0, 20, 20)), ("green", (20, 0, 40, 20)))
    box = {"bbox_x": 20, "bbox_y": 0, "bbox_w": 20, "bbox_h": 20, "image_path": "1.jpg"}
    green, red = ({"true_caption": a, "false_caption": b} for a, b in (("green", "red"), ("red", "green")))
    tie = {"true_caption": "green thing", "false_caption": "green one"}
    names = [("on", green), ("on", red), ("on", red), ("on", red), ("under", green), ("under", tie)]
    write_json(root / "visual_genome_relation.json", [box | c | {"relation_name": n} for n, c in names])
    pairs = [box | green | {"attributes": ["old", "new"]}] * 24 + [box | red | {"attributes": ["old", "new"]}]
    pairs += [box | red | {"attributes": ["small", "big"]}] * 24
    write_json(root / "visual_genome_attribution.json", pairs)


def test_aro_cuts_the_box_and_averages_over_groups(tmp_path):
    write_aro(tmp_path)
    result = aro_relation(ColourModel(), EvalContext(tmp_path))
    assert result.numbers["aro_relation/accuracy"] == pytest.approx(2 / 6)
    assert result.numbers["aro_relation/macro_accuracy"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert result.items["aro_relation"].columns["group"][:2] == ["on", "on"]
    result = aro_attribution(ColourModel(), EvalContext(tmp_path))
    assert result.numbers["aro_attribution/macro_accuracy"] == 24 / 25  # the pair of 24 questions does not count
    assert result.settings["groups that count"] == 1


def test_winoground_by_hand(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue")):
        plain(tmp_path / "winoground" / "data" / "images" / f"{name}.png", colour)
    examples = [
        {"id": n, "image_0": "a", "image_1": "b", "caption_0": c0, "caption_1": c1}
        for n, (c0, c1) in enumerate([("red", "blue"), ("blue", "red"), ("red", "red"), ("green", "blue")])
    ]
    write_lines(tmp_path / "winoground" / "data" / "examples.jsonl", examples)
    result = winoground(ColourModel(), EvalContext(tmp_path))
    table = result.items["winoground"].columns
    assert table["text"] == [True, False, False, False]
    assert table["image"] == [True, False, False, False]
    assert table["caption_0"] == ["red", "blue", "red", "green"]
    assert table["caption_1"] == ["blue", "red", "red", "blue"]
    assert (result.numbers["winoground/group_accuracy"], result.numbers["winoground/questions"]) == (0.25, 4)


def write_winoground_parquet(root, examples):
    """Images of one colour in the rows, as the hub's own conversion stores them."""
    arrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    rows = []
    for number, (*colours, first, second) in enumerate(examples):
        row = {"id": number, "caption_0": first, "caption_1": second, "tag": "x"}
        for side, colour in enumerate(colours):
            plain(root / "image.png", colour)
            row[f"image_{side}"] = {"bytes": (root / "image.png").read_bytes(), "path": f"ex_{number}_img_{side}.png"}
        rows.append(row)
    (root / "winoground" / "data").mkdir(parents=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        file = root / "winoground" / "data" / f"test-{number:05d}-of-00002.parquet"
        writer.write_table(arrow.Table.from_pylist(part), file)
    return file


def test_winoground_from_parquet(tmp_path):
    captions = [("red", "blue"), ("blue", "red"), ("red", "red"), ("green", "blue")]
    file = write_winoground_parquet(tmp_path, [("red", "blue", *pair) for pair in captions])
    result = winoground(ColourModel(), EvalContext(tmp_path))
    table = result.items["winoground"].columns
    assert table["text"] == table["image"] == [True, False, False, False]
    assert table["caption_1"] == ["blue", "red", "red", "blue"]
    assert result.numbers["winoground/group_accuracy"] == 0.25
    assert sorted(result.settings["files"]) == [f"test-{n:05d}-of-00002.parquet" for n in (0, 1)]
    assert result.settings["files"][file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match=r"of-00002\.parquet is no Parquet file with image_0"):
        winoground(ColourModel(), EvalContext(tmp_path))
    for name, colour in (("a", "red"), ("b", "blue")):
        plain(tmp_path / "winoground" / "data" / "images" / f"{name}.png", colour)
    example = {"id": 0, "image_0": "a", "image_1": "b", "caption_0": "red", "caption_1": "blue"}
    write_lines(tmp_path / "winoground" / "data" / "examples.jsonl", [example])
    result = winoground(ColourModel(), EvalContext(tmp_path))  # the release's own files come first
    assert result.numbers["winoground/questions"] == 1


def test_winoground_without_its_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"examples\.jsonl"):
        winoground(ColourModel(), EvalContext(tmp_path))


def test_winoground_s_text_and_image_scores_ask_different_things(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue")):
        plain(tmp_path / "images" / f"{name}.png", colour)
    write_lines(
        tmp_path / "examples.jsonl",
        [{"image_0": "a", "image_1": "b", "caption_0": "first", "caption_1": "second"}],
    )
    model = ColourModel()
    # s(c0,a)=.8 s(c1,a)=.6 s(c0,b)=.6 s(c1,b)=.8 but for lengths: first caption (.8, .0, .6), second (.6, .0, .8)
    for vectors, expected in (
        ([[0.8, 0.0, 0.6], [0.6, 0.0, 0.8]], (True, True)),
        ([[0.6, 0.8, 0.0], [0.28, 0.0, 0.96]], (True, True)),
        ([[0.6, 0.0, 0.8], [0.0, 0.6, 0.8]], (False, False)),
        ([[0.28, 0.0, 0.96], [0.0, 0.0, 1.0]], (True, False)),
    ):
        model.encode_text = lambda texts, vectors=vectors: torch.tensor(vectors)
        numbers = winoground(model, EvalContext(tmp_path)).numbers
        assert (numbers["winoground/text_accuracy"] == 1, numbers["winoground/image_accuracy"] == 1) == expected
