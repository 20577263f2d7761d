"""Retrieval from released files: the readers, end to end, and the traps of each data set."""

import json

import pytest
import torch

from eval.benchmarks.coco_captions import coco_karpathy, coco_val2017, coco_val2017_all
from eval.benchmarks.dci import dci, dci_extra, dci_long
from eval.benchmarks.docci import docci, docci_goal
from eval.benchmarks.flickr30k import flickr30k, flickr30k_all, flickr30k_val
from eval.benchmarks.iiw import iiw
from eval.benchmarks.retrieval_file import RetrievalFile
from eval.benchmarks.sharegpt4v import _first, sharegpt4v_1k
from eval.benchmarks.urban1k import urban1k
from eval.data.caption_preprocessing import first_line, lotlip
from eval.data.image_preprocessing import squash
from eval.interfaces import EvalContext
from tests.eval import releases
from tests.eval.official import ColourModel, rows, write_json


def measures(result, way="text_to_image"):
    heads = [(name.split("/"), number) for name, number in result.numbers.items()]
    return {parts[2]: number for parts, number in heads if parts[1] == way}


def test_urban1k_takes_the_first_line_that_is_filled(tmp_path):
    folder = releases.write_urban1k(tmp_path)
    model = ColourModel()
    result = urban1k(model, EvalContext(tmp_path))
    assert model.texts == ["A red street.", "A green street.", "A blue street."]
    assert measures(result)["R@1"] == measures(result, "image_to_text")["R@1"] == 1.0
    settings = result.settings
    assert (settings["images"], settings["texts"], settings["caption"]) == (3, 3, "first_filled_line")
    assert settings["image"] == "centre_crop, 16×16"
    assert len(settings["split sha256"]) == len(settings["files"]["caption/*.txt"]) == 64
    assert urban1k(model, EvalContext(folder)).numbers == result.numbers
    (folder / "caption" / "3.txt").write_text("\n\n")
    with pytest.raises(StopIteration):  # the model of colours reads no colour in an empty text
        urban1k(model, EvalContext(tmp_path))


def test_the_published_first_line_may_be_empty(tmp_path):
    releases.write_urban1k(tmp_path)
    model = ColourModel()
    model.encode_text = lambda texts: torch.eye(3)[[len(text) % 3 for text in texts]]
    result = urban1k(model, EvalContext(tmp_path, wording=first_line, fit=squash))
    assert result.counts == {"empty text": 1}
    assert (result.settings["caption"], result.settings["image"]) == ("first_line", "squash, 16×16")
    assert result.items["urban1k/text_to_image"].columns["text"] == ["A red street.", "A green street.", ""]


def test_urban1k_refuses_an_image_without_caption_and_missing_images(tmp_path):
    folder = releases.write_urban1k(tmp_path)
    (folder / "image" / "2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 files of .*caption are missing, such as .*2\.jpg"):
        urban1k(ColourModel(), EvalContext(tmp_path))
    result = urban1k(ColourModel(), EvalContext(tmp_path, skip_missing=True))
    assert result.counts == {"image missing": 1}
    assert (result.settings["images"], measures(result)["queries"]) == (2, 2)
    releases.plain(folder / "image" / "9.jpg", "red")
    with pytest.raises(ValueError, match=r"image: every image must have a caption, got none for 9\.jpg"):
        urban1k(ColourModel(), EvalContext(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no Urban1k/caption, no"):
        urban1k(ColourModel(), EvalContext(tmp_path / "image"))


def test_sharegpt4v_reads_the_first_of_the_list_and_no_further(tmp_path, monkeypatch):
    file = releases.write_sharegpt4v(tmp_path, 6)
    monkeypatch.setattr("datamodules.formats.row_readers._CHUNK", 50)
    model = ColourModel()
    result = _first("sharegpt4v_1k", 6, model, EvalContext(tmp_path))
    assert model.texts[0] == "A red wall, number 0."
    assert list(result.settings["files"]) == [f"{file.name}[:6]"]
    assert measures(result)["R@5"] == 1.0
    assert measures(result)["R@1"] == 1.0
    assert measures(result)["strict_R@1"] == 0.0  # two images of each colour
    assert measures(result)["ties"] == 1.0
    with pytest.raises(ValueError, match="row 6 is not JSON, or the file is cut"):
        sharegpt4v_1k(model, EvalContext(tmp_path))
    (tmp_path / "flat").mkdir()
    for image_file in (tmp_path / "sam" / "images").iterdir():  # FG-CLIP's folder, by name alone
        image_file.rename(tmp_path / image_file.name)
    assert _first("sharegpt4v_1k", 6, model, EvalContext(tmp_path)).numbers == result.numbers
    file.write_text(json.dumps([{"image": "a.jpg", "conversations": [{"value": "x"}]}]))
    with pytest.raises(
        ValueError, match=r"row 0's 'conversations' must hold an answer of 'gpt', got \[{'value': 'x'}\]"
    ):
        _first("sharegpt4v_1k", 1, model, EvalContext(tmp_path))
    blank = {"image": "a.jpg", "conversations": [{"from": "gpt", "value": " "}]}
    file.write_text(json.dumps([blank]))
    with pytest.raises(ValueError, match="the caption of row 0 must be a text that is not empty, got ' '"):
        _first("sharegpt4v_1k", 1, model, EvalContext(tmp_path))
    with pytest.raises(ValueError, match="must hold at least 1000 records, got 1"):
        sharegpt4v_1k(model, EvalContext(tmp_path))


def test_docci_s_splits(tmp_path):
    file = releases.write_docci(tmp_path)
    result, goal = (benchmark(ColourModel(), EvalContext(tmp_path)) for benchmark in (docci, docci_goal))
    assert result.settings["images"] == 3
    assert list(result.settings["files"]) == ["docci_descriptions.jsonlines"]
    assert measures(result)["R@1"] == 1.0
    assert goal.settings["images"] == 4
    assert goal.items["docci_goal/image_to_text"].columns["image"][-1].startswith("qual_test")
    assert measures(goal)["ties"] == 0.5
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1].replace('"description"', '"describes"')]))
    with pytest.raises(ValueError, match=r"jsonlines: line 2's 'description' must be a text that is not empty"):
        docci(ColourModel(), EvalContext(tmp_path))
    file.write_text(lines[0])
    with pytest.raises(ValueError, match="must hold the splits test, got no record of them"):
        docci(ColourModel(), EvalContext(tmp_path))


def test_dci_s_protocols_read_other_texts(tmp_path):
    folder = releases.write_dci(tmp_path)
    model = ColourModel()
    result = dci(model, EvalContext(tmp_path))
    images = result.items["dci/image_to_text"].columns["image"]
    assert images == ["sa_1.jpg", "sa_3.jpg", "sa_2.jpg", "sa_0.jpg"]  # train, valid, test
    assert result.items["dci/text_to_image"].columns["text"][:2] == [
        "A green thing. All of it is green. It is 3. 5 m high",
        "A red thing",
    ]
    result = dci_long(model, EvalContext(tmp_path))
    assert result.counts == {"image without an extra caption": 1}
    assert result.settings["images"] == 3
    assert result.items["dci_long/text_to_image"].columns["image"] == ["sa_2.jpg", "sa_1.jpg", "sa_0.jpg"]
    model.encode_text = lambda texts: torch.eye(3)[[len(text) % 3 for text in texts]]
    result = dci_extra(model, EvalContext(tmp_path))
    assert (result.settings["images"], result.counts) == (4, {"empty text": 1})
    write_json(folder / "splits.json", {"train": [], "valid": 3})
    with pytest.raises(ValueError, match=r"splits.json: 'valid' must be a list of files of annotations, got 3"):
        dci(model, EvalContext(tmp_path))


def test_iiw_joins_three_sets_and_finds_docci_s_other_names(tmp_path):
    releases.write_iiw(tmp_path)
    result = iiw(ColourModel(), EvalContext(tmp_path))
    assert measures(result)["R@1"] == 1.0
    assert result.counts == {"image test_N taken by the name train_N": 1}
    assert result.items["iiw/image_to_text"].columns["image"] == [
        "DOCCI_Test/test_00731.jpg",
        "IIW-400/aar_test_04600.jpg",
        "DCI_Test/sa_1.jpg",
    ]
    assert len(result.settings["files"]) == 3


def test_karpathy_keeps_the_sixth_caption(tmp_path):
    releases.write_karpathy(tmp_path)
    result = coco_karpathy(ColourModel(), EvalContext(tmp_path))
    assert (result.settings["images"], result.settings["texts"]) == (3, 16)
    assert measures(result)["queries"] == 16
    assert measures(result, "image_to_text")["queries"] == 3
    assert measures(result, "image_to_text")["R@1"] == 1.0


def test_albef_s_list_gives_the_same_numbers(tmp_path):
    file = releases.write_karpathy(tmp_path)
    expected = coco_karpathy(ColourModel(), EvalContext(tmp_path)).numbers
    records = [
        {"image": f"val2014/{image['filename']}", "caption": [s["raw"] for s in image["sentences"]]}
        for image in rows(file)["images"]
        if image["split"] == "test"
    ]
    file.unlink()
    write_json(tmp_path / "coco_karpathy_test.json", records)
    assert coco_karpathy(ColourModel(), EvalContext(tmp_path)).numbers == expected
    records[1]["caption"] = []
    write_json(tmp_path / "coco_karpathy_test.json", records)
    with pytest.raises(ValueError, match=r"'records\[1\].caption' must be a list of texts, got \[\]"):
        coco_karpathy(ColourModel(), EvalContext(tmp_path))


def test_val2017_takes_five_captions_or_all_and_sorts_by_id(tmp_path):
    file = releases.write_val2017(tmp_path)
    result, all_captions = (
        benchmark(ColourModel(), EvalContext(tmp_path)) for benchmark in (coco_val2017, coco_val2017_all)
    )
    assert (result.settings["texts"], all_captions.settings["texts"]) == (15, 18)
    assert result.items["coco_val2017/image_to_text"].columns["image"] == [f"{n:012d}.jpg" for n in (10, 20, 30)]
    # "red and something" stands under the red image and the blue one
    assert measures(result)["R@1"] == pytest.approx(14 / 15)
    assert measures(result, "image_to_text")["R@1"] == 1.0
    assert measures(result, "image_to_text")["ties"] == pytest.approx(1 / 3)
    document = rows(file)
    document["annotations"][0]["image_id"] = 99
    write_json(file, document)
    with pytest.raises(ValueError, match=r"'annotations\[id 500\].image_id' must be the id of one of 'images', got 99"):
        coco_val2017(ColourModel(), EvalContext(tmp_path))


def test_flickr_s_sets_differ_and_quotes_stay_outside(tmp_path):
    file = releases.write_flickr(tmp_path)
    model = ColourModel()
    results = [benchmark(model, EvalContext(tmp_path)) for benchmark in (flickr30k, flickr30k_val, flickr30k_all)]
    assert [result.settings["images"] for result in results] == [2, 1, 4]
    assert [result.settings["texts"] for result in results] == [10, 5, 20]
    assert 'A "red" thing, seen from above' in model.texts
    for line in (
        "1.jpg no tab",
        "1.jpg#0 no tab",
        "1.jpg\tno number",
        "#0\tno name",
        "1.jpg#x\tno number",
        "1.jpg#0\t ",
    ):
        file.write_text(f"{line}\n")
        with pytest.raises(ValueError, match=r"token: line 1 must be NAME#N, a tab and a caption, got '(1|#0)"):
            flickr30k_all(model, EvalContext(tmp_path))


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv"])
def test_any_table(tmp_path, kind):
    table = [{"filename": f"{c}.png", "caption": f'a "{c}" thing, or\ntwo'} for c in releases.NAMES]
    table.append({"filename": "red.png", "caption": "more red"})
    for colour in releases.NAMES:
        releases.plain(tmp_path / "images" / f"{colour}.png", colour)
    file = tmp_path / f"mine.{kind}"
    if kind == "json":
        write_json(file, table)
    elif kind == "jsonl":
        releases.write_lines(file, table)
    else:
        releases.write_csv(file, table, {"csv": ",", "tsv": "\t"}[kind])
    result = RetrievalFile(file.name)(ColourModel(), EvalContext(tmp_path))
    assert (result.settings["images"], result.settings["texts"]) == (3, 4)
    assert result.numbers["retrieval:mine/text_to_image/R@1"] == 1.0
    assert result.numbers["retrieval:mine/image_to_text/queries"] == 3


def test_tables_with_lists_and_without_fields(tmp_path):
    releases.plain(tmp_path / "a.png", "red")
    releases.write_csv(tmp_path / "n.csv", [{"filename": "a.png", "raw": json.dumps(["red", "also red"])}])
    assert RetrievalFile("n.csv")(ColourModel(), EvalContext(tmp_path)).settings["texts"] == 2
    # Long-DCI's: tabs in a .csv; FLAIR's: the list is within an object
    releases.write_csv(tmp_path / "dci_long.csv", [{"filepath": "a.png", "title": "red, all of it"}], "\t")
    assert RetrievalFile("dci_long.csv")(ColourModel(), EvalContext(tmp_path)).settings["texts"] == 1
    write_json(tmp_path / "flair.json", {"annotations": [{"image_id": 1, "image": "a.png", "caption": "red"}] * 3})
    assert RetrievalFile("flair.json")(ColourModel(), EvalContext(tmp_path)).settings["texts"] == 3
    releases.write_csv(tmp_path / "m.csv", [{"image": "a.png", "words": "red"}])
    with pytest.raises(ValueError, match=r"m.csv must have one of the fields caption, .*, got image, words"):
        RetrievalFile("m.csv")(ColourModel(), EvalContext(tmp_path))
    (tmp_path / "s.csv").write_text("image,caption\na.png,red,more\n")
    with pytest.raises(ValueError, match=r"s\.csv: line 2 must have as many fields as the head line"):
        RetrievalFile("s.csv")(ColourModel(), EvalContext(tmp_path))
    (tmp_path / "q.csv").write_text('image,caption\na.png,"red" thing\n')
    with pytest.raises(ValueError, match=r"q\.csv: line 2 is no row of a table: ',' expected after '\"'"):
        RetrievalFile("q.csv")(ColourModel(), EvalContext(tmp_path))
    (tmp_path / "b.jsonl").write_text('{"image": "a.png", "caption": "red"}\n{')
    with pytest.raises(ValueError, match=r"b.jsonl: line 2 is not JSON"):
        RetrievalFile("b.jsonl")(ColourModel(), EvalContext(tmp_path))


def test_texts_that_are_cut_are_counted(tmp_path):
    file = releases.write_docci(tmp_path)
    file.write_text(file.read_text().replace("A green thing.", "A green thing." + " word" * 20))
    assert docci(ColourModel(), EvalContext(tmp_path)).counts == {"text cut at 20 tokens": 1}


def test_lotlip_s_wording_drops_the_last_stop_and_breaks_decimals():
    assert lotlip("One.\nTwo is 3.5 m.</s>Three.") == "One. Two is 3. 5 m. Three"


def test_a_table_is_looked_for_here_first_and_a_folder_is_none(tmp_path, monkeypatch):
    current, root = tmp_path / "here", tmp_path / "root"
    for folder, colours in ((current, ["red"]), (root, ["red", "green"])):
        (folder / "val2017").mkdir(parents=True)
        releases.write_csv(folder / "m.csv", [{"image": f"{c}.png", "caption": f"a {c} thing"} for c in colours])
        for colour in colours:
            releases.plain(folder / f"{colour}.png", colour)
    monkeypatch.chdir(current)
    assert RetrievalFile("m.csv")(ColourModel(), EvalContext(root)).settings["images"] == 1
    (current / "m.csv").unlink()
    assert RetrievalFile("m.csv")(ColourModel(), EvalContext(root)).settings["images"] == 2
    with pytest.raises(ValueError, match=r"^val2017 is a folder; a file is needed here"):
        RetrievalFile("val2017")(ColourModel(), EvalContext(root))
    with pytest.raises(FileNotFoundError, match=r"^the file no\.csv or .*root/no\.csv does not exist"):
        RetrievalFile("no.csv")(ColourModel(), EvalContext(root))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", "PK", r"t\.xlsx must be one of \.json, \.jsonl"),
        (
            "t.json",
            '[{"image": "a.png", "caption": "a \\ud800 b"}]',
            r"t\.json: 'records\[0\]' holds half of a surrogate pair",
        ),
        ("t.csv", "image,caption\n", r"t\.csv must hold records, got none"),
        ("t.parquet", "PAR1", r"t\.parquet is not a Parquet file that can be read"),
    ],
)
def test_tables_that_are_none(tmp_path, name, content, message):
    releases.plain(tmp_path / "a.png", "red")
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        RetrievalFile(name)(ColourModel(), EvalContext(tmp_path))
