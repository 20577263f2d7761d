"""Data sets of long captions, each in its release's own layout."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from datamodules import prepare
from datamodules.formats.layout import LayoutError
from datamodules.formats.row_readers import json_array, json_lines
from datamodules.prepare.job import PrepareJob
from datamodules.sample import Sample
from datamodules.shards.tar_index import load_index
from lightning_modules.cli.main import main
from tests.helpers.tiny import picture, write_tar

pytestmark = pytest.mark.usefixtures("nltk_data")
CAPTION = "A red cube lies on a wooden table. Next to it, about 3.5 m away, Mr. Smith holds a small blue ball."


def read(out: Path) -> list[Sample]:
    samples = []
    for tar in sorted(out.glob("*.tar")):
        index = load_index(tar)
        with tar.open("rb") as file:
            samples += [Sample.from_members(index.read(file.fileno(), n)) for n in range(len(index))]
    return samples


def put(path: Path, data: bytes | None = None, **size) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(0, **size) if data is None else data)
    return path


def lines(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check_grains(sample: Sample) -> None:
    assert len(sample.sentences) == 2
    assert "3.5 m away, Mr. Smith" in sample.sentences[1]
    assert {"A red cube", "a small blue ball"} <= {p.text for p in sample.phrases}
    for phrase in sample.phrases:
        assert sample.caption[phrase.start : phrase.end] == phrase.text


def test_sharegpt4v(tmp_path):
    folders = ["sam/images", "coco/train2017", "llava/llava_pretrain/images"]
    names = [f"{folders[n % 3]}/{n:04d}.jpg" for n in range(9)] + ["sam/images/0000.jpg"]
    for name in names[:-2]:
        put(tmp_path / "images" / name)

    def record(name):
        conversation = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": CAPTION}]
        return {"id": name, "image": name, "conversations": conversation}

    path = tmp_path / "share.json"
    path.write_text(json.dumps([record(n) for n in names], indent=2))
    out = tmp_path / "out"
    options = {"held_out": 3, "skip_missing": True}
    manifest = prepare.prepare_sharegpt4v(tmp_path / "images", path, PrepareJob(out, samples_per_shard=4), **options)
    samples = read(out)
    assert [s.key for s in samples] == [n[:-4].replace("/", "_") for n in names[3:8]]
    assert manifest is not None
    assert manifest["rejects"] == {"image missing": 1}
    check_grains(samples[0])
    for row, message in [({"id": 1}, "'image'"), (record("../x.jpg"), "inside"), ({"image": "a.jpg"}, "conversations")]:
        path.write_text(json.dumps([row]))
        with pytest.raises(LayoutError, match=message):
            prepare.prepare_sharegpt4v(tmp_path / "images", path, PrepareJob(tmp_path / "other"), held_out=0)


def test_docci_and_smaller_pictures(tmp_path):
    rows = [
        {"example_id": f"{s}_{n}", "split": s, "image_file": f"{s}_{n}.jpg", "description": CAPTION}
        for s, n in [("train", 0), ("test", 1), ("train", 2)]
    ]
    for row in rows:
        put(tmp_path / row["image_file"], width=400, height=200)
    out = tmp_path / "out"
    prepare.prepare_docci(tmp_path, lines(tmp_path / "d.jsonlines", rows), PrepareJob(out, max_side=100))
    samples = read(out)
    assert [s.key for s in samples] == ["train_0", "train_2"]
    assert Image.open(io.BytesIO(samples[0].image)).size == (100, 50)
    check_grains(samples[0])
    prepare.prepare_docci(tmp_path, tmp_path / "d.jsonlines", PrepareJob(tmp_path / "test"), split="test")
    assert [s.image for s in read(tmp_path / "test")] == [picture(0, width=400, height=200)]


def test_dci(tmp_path):
    def mask(x0, y0, x1, y1, label, quality=0):
        bounds = {"topLeft": {"x": x0, "y": y0}, "bottomRight": {"x": x1, "y": y1}}
        return {"bounds": bounds, "label": label, "caption": "c", "mask_quality": quality, "outer_mask": "xxxx"}

    row = {
        "image": "sa_1.jpg", "short_caption": "A cube and a ball.", "extra_caption": CAPTION,
        "mask_data": {"0": mask(0, 0, 24, 20, "cube"), "1": mask(4, 4, 8, 8, "blur", 2), "2": mask(5, 5, 5, 9, "x")},
    }  # fmt: skip
    put(tmp_path / "photos" / "sa_1.jpg")
    for name in ("1-data.json", "2-data.json"):
        put(tmp_path / "annotations" / name, json.dumps(row).encode())
    splits = put(tmp_path / "splits.json", json.dumps({"train": ["1-data.json"], "test": ["2-data.json"]}).encode())
    out = tmp_path / "out"
    manifest = prepare.prepare_dci(tmp_path / "photos", tmp_path / "annotations", PrepareJob(out), splits)
    (sample,) = read(out)
    assert sample.summary == "A cube and a ball."
    assert sample.caption == f"A cube and a ball. {CAPTION}"
    assert [(r.box, r.label) for r in sample.regions] == [((0, 0, 0.5, 0.5), "cube")]
    assert manifest is not None
    assert manifest["rejects"] == {"box without area": 1}
    assert manifest["labels"] == ["cube"]


def test_imageinwords(tmp_path):
    rows = [{"image": "test_00731", "IIW": CAPTION}, {"image/key": "aar_test_1", "IIW": CAPTION}]
    put(tmp_path / "train_00731.jpg")
    put(tmp_path / "aar_test_1.jpg")
    prepare.prepare_imageinwords(tmp_path, lines(tmp_path / "data.jsonl", rows), PrepareJob(tmp_path / "out"))
    assert [s.key for s in read(tmp_path / "out")] == ["test_00731", "aar_test_1"]


def test_localized_narratives(tmp_path):
    rows = [
        {"dataset_id": "mscoco_train2017", "image_id": "9", "annotator_id": a, "caption": CAPTION, "traces": []}
        for a in (3, 4)
    ]
    put(tmp_path / "000000000009.jpg")
    prepare.prepare_localized_narratives(tmp_path, lines(tmp_path / "n.jsonl", rows), PrepareJob(tmp_path / "out"))
    assert [s.key for s in read(tmp_path / "out")] == ["000000000009-3", "000000000009-4"]


def test_karpathy(tmp_path, capsys):
    sentences = [{"raw": " A red cube lies there ", "tokens": []}, {"raw": "Mr. Smith holds a ball. It is blue."}]
    rows = [
        {"filename": f"{n}.jpg", "split": split, "sentences": sentences, "imgid": n}
        | ({"filepath": "val2014"} if n else {})
        for n, split in enumerate(["train", "restval", "test"])
    ]
    for name in ("0.jpg", "val2014/1.jpg"):
        put(tmp_path / name)
    path = put(tmp_path / "dataset_coco.json", json.dumps({"images": rows, "dataset": "coco"}).encode())
    words = ["prepare", "karpathy", "--images", str(tmp_path), "--annotations", str(path), "--out"]
    assert main([*words, str(tmp_path / "out"), "--splits", "[train,restval]"]) == 0
    samples = read(tmp_path / "out")
    assert [(s.key, s.source) for s in samples] == [("0", "karpathy"), ("1", "karpathy")]
    assert samples[0].sentences == ("A red cube lies there.", "Mr. Smith holds a ball. It is blue.")
    with pytest.raises(SystemExit):
        main([*words, str(tmp_path / "test"), "--splits", "[test]"])
    assert "2.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_tables(tmp_path, kind, capsys):
    rows = [{"file": "a/1.png", "text": CAPTION, "short": "One."}, {"file": "a/2.png", "text": "", "short": ""}]
    for row in rows:
        put(tmp_path / row["file"], picture(0, format="PNG"))
    path = tmp_path / f"t.{kind}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    elif kind == "jsonl":
        lines(path, rows)
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows))
    words = ["--images", str(tmp_path), "--annotations", str(path), "--out", str(tmp_path / "out")]
    words += ["--image_column", "file", "--caption_column", "text", "--summary_column", "short"]
    assert main(["prepare", "table", *words, "--samples_per_shard", "5"]) == 0
    (sample,) = read(tmp_path / "out")
    assert (sample.key, sample.extension, sample.summary) == ("a_1", "png", "One.")
    check_grains(sample)
    with pytest.raises(SystemExit):
        main(["prepare", "table", *words, "--caption_column", "nothing", "--overwrite", "true"])
    assert "no column 'nothing'" in capsys.readouterr().err


def test_tars(tmp_path):
    rows = [("1", {"json": json.dumps({"caption": CAPTION, "url": "x"}).encode()}), ("2", {"txt": CAPTION.encode()})]
    rows += [("3", {"json": b"{"}), ("4", {"json": b'{"caption": "  "}'})]
    members = [{"__key__": f"0000{key}", "jpg": picture(int(key)), **extra} for key, extra in rows]
    write_tar(tmp_path / "in0.tar", members[:1])
    write_tar(tmp_path / "in1.tar", members[1:])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    manifest = prepare.prepare_tars(str(tmp_path / "in*.tar"), PrepareJob(tmp_path / "out"))
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    samples = read(tmp_path / "out")
    assert [s.key for s in samples] == ["00001", "00002"]
    assert [s.image for s in samples] == [picture(1), picture(2)]
    assert manifest is not None
    assert manifest["rejects"] == {"json unreadable": 1, "no caption": 1}
    check_grains(samples[1])


def test_stop_phrases_stand_apart(tmp_path, capsys):
    put(tmp_path / "a.jpg")
    table = lines(tmp_path / "t.jsonl", [{"image": "a.jpg", "caption": "The image shows a red cube on the left side."}])
    manifest = prepare.prepare_table(tmp_path, table, PrepareJob(tmp_path / "out", tokens=True))
    (sample,) = read(tmp_path / "out")
    assert [p.text for p in sample.phrases] == ["a red cube", "on the left side"]
    assert [(p.text, p.start, p.sentence, p.lemma) for p in sample.stop_phrases] == [("The image", 0, 0, "image")]
    assert manifest is not None
    assert manifest["statistics"]["stop_phrases"] == {"1": 1}
    assert main(["inspect", str(tmp_path / "out"), "--html", str(tmp_path / "p.html")]) == 0
    assert '<mark class="stop" title="stop-phrase">The image</mark>' in (tmp_path / "p.html").read_text()
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "1 sentences, 2 phrases, 1 stop-phrases, 0 boxes" in capsys.readouterr().out


def test_a_key_that_comes_again_gets_a_number_that_is_free(tmp_path):
    names = ["a/b.jpg", "a_b-1.jpg", "a_b.jpg", "a_b.jpg"]
    for name in names:
        put(tmp_path / name)
    table = lines(tmp_path / "t.jsonl", [{"image": name, "caption": "A cat."} for name in names])
    prepare.prepare_table(tmp_path, table, PrepareJob(tmp_path / "out", extractor="rules"))
    assert [sample.key for sample in read(tmp_path / "out")] == ["a_b", "a_b-1", "a_b-2", "a_b-3"]


def test_lines_and_lists_are_seen_before_they_are_joined(tmp_path):
    put(tmp_path / "a.jpg")
    caption = "Two things\n\n- a red cube\n- a  blue ball\nThey lie on\nthe the table.\nIt is 3.5 m wide."
    table = lines(tmp_path / "t.jsonl", [{"image": "a.jpg", "caption": caption}])
    prepare.prepare_table(tmp_path, table, PrepareJob(tmp_path / "out"))
    (sample,) = read(tmp_path / "out")
    assert sample.caption == "Two things - a red cube - a blue ball They lie on the table. It is 3.5 m wide."
    sentences = ("Two things", "a red cube", "a blue ball", "They lie on the table.", "It is 3.5 m wide.")
    assert sample.sentences == sentences


def test_arrays_are_read_in_pieces(tmp_path, monkeypatch):
    rows = [{"n": n, "text": "x" * (n % 50) + '"}],[{'} for n in range(300)]
    for size in (1, 7, 64, 10_000):
        monkeypatch.setattr("datamodules.formats.row_readers._CHUNK", size)
        for indent in (None, 2):
            path = tmp_path / "a.json"
            path.write_text(" " * 3 + json.dumps(rows, indent=indent) + "\n") if size > 7 else path.write_text(
                json.dumps(rows, indent=indent)
            )
            assert list(json_array(path)) == rows
    for wrong, message in [("{}", "begins with"), ('[{"a": 1}, {"b"', "cut"), ("[1]", "object"), ("[{]", "not JSON")]:
        path.write_text(wrong)
        with pytest.raises(LayoutError, match=message):
            list(json_array(path))
    path.write_text('{"a": 1}\n\nno\n')
    with pytest.raises(LayoutError, match="line 3"):
        list(json_lines(path))


@pytest.mark.slow
def test_real_captions(tmp_path, shared, nltk_data):
    """2,000 DOCCI captions: every offset exact, no sentence beyond its caption, the same bytes twice."""
    captions = [row["caption"] for row in json_lines(shared / "data" / "docci_captions.jsonl")]
    put(tmp_path / "a.jpg", width=32, height=32)
    tables = {n: lines(tmp_path / f"{n}.jsonl", [{"image": "a.jpg", "caption": c} for c in captions[:n]])
              for n in (200, len(captions))}  # fmt: skip
    for name, number, processes in [("one", 200, 1), ("two", 200, 2), ("all", len(captions), 2)]:
        job = PrepareJob(tmp_path / name, processes=processes, samples_per_shard=number // 8)
        prepare.prepare_table(tmp_path, tables[number], job)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).glob("*.[jt]*")} for n in ("one", "two"))
    assert one.keys() == two.keys()
    assert one == two
    samples = read(tmp_path / "all")
    assert len(samples) == len(captions) == 2000
    for sample in samples:
        assert all(len(sentence) <= len(sample.caption) for sentence in sample.sentences)
        assert all(sample.caption[p.start : p.end] == p.text for p in (*sample.phrases, *sample.stop_phrases))
    statistics = json.loads((tmp_path / "all" / "manifest.json").read_text())["statistics"]
    counts = {name: sum(int(value) * n for value, n in histogram.items()) for name, histogram in statistics.items()}
    assert counts["sentences"] == sum(len(sample.sentences) for sample in samples)
    assert counts["phrases"] == sum(len(sample.phrases) for sample in samples)
    assert counts["stop_phrases"] == sum(len(sample.stop_phrases) for sample in samples)
    stable = {"sentences": 14304, "phrases": 55157, "stop_phrases": 6547}  # where they change, CUTTING goes up
    assert {name: counts[name] for name in stable} == stable
