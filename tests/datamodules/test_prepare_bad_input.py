"""Bad input of every kind to `lightning prepare`: one short line that names file or field, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_modules.cli.main import main
from tests.helpers.tiny import picture, write_tar

COCO = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 48, "height": 40}],
    "annotations": [{"image_id": 1, "caption": "A dog."}],
}
BOXES = {
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}],
}
GROUNDED = {
    "images": [COCO["images"][0] | {"caption": "a red dog"}],
    "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 10, 10], "tokens_positive": [[0, 9]]}],
}
KARPATHY = {"images": [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "A dog."}]}]}
DCI = {"image": "1.jpg", "short_caption": "A dog.", "extra_caption": "", "mask_data": {}}
DOCCI = {"split": "train", "image_file": "1.jpg", "description": "A dog."}
NARRATIVE = {"dataset_id": "open_images", "image_id": "1", "annotator_id": 3, "caption": "A dog."}
SHARED = [{"image": "1.jpg", "conversations": [{"from": "gpt", "value": "A dog."}]}]
FLICKR8K = {"f/Flickr8k.token.txt": "1.jpg#0\tA dog .\n", "f/Flickr_8k.trainImages.txt": "1.jpg\n"}
XML = (
    "<annotation><size><width>48</width><height>40</height></size><object><name>1</name><bndbox>"
    "<xmin>1</xmin><ymin>1</ymin><xmax>XMAX</xmax><ymax>20</ymax></bndbox></object></annotation>"
)


def changed(document, *path, value):
    copy = json.loads(json.dumps(document))
    target = copy
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return copy


def prepare(folder: Path, source: str, files: dict, *words: str) -> int:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "1.jpg").write_bytes(picture(1))
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    images = [] if source in ("tars", "grit") else ["--images", str(folder / "images")]
    arguments = [str(folder / word[1:]) if word.startswith("@") else word for word in words]
    out = ["--out", str(folder / "out"), "--extractor", "rules", "--quiet", "true"]
    return main(["prepare", source, *images, *arguments, *out])


A = ("--annotations", "@a.json")
ALL = ("--held_out", "0")
HUGE = 10**400
REFUSED = [
    ("coco", {}, ("--captions", "@images"), "images is a folder; an annotation file is needed here"),
    ("coco", {"c.json": changed(COCO, "images", 0, "id", value=" ")}, ("--captions", "@c.json"), "'images[0].id' must"),
    ("coco", {"c.json": COCO, "out": "x"}, ("--captions", "@c.json"), "out is a file"),
    (
        "coco",
        {"c.json": COCO, "i.json": changed(BOXES, "annotations", 0, "bbox", value=[0, 0, HUGE, 1])},
        ("--captions", "@c.json", "--instances", "@i.json"),
        "'annotations[0].bbox' must be [x, y, width, height] in pixels",
    ),
    ("grounded", {"a.json": changed(GROUNDED, "images", 0, "width", value=HUGE)}, A, "'images[0].width' must be"),
    ("karpathy", {"a.json": changed(KARPATHY, "images", 0, "filename", value="x" * 5000)}, A, ".filename' must"),
    ("karpathy", {"a.json": changed(KARPATHY, "images", 0, "split", value="val")}, A, "nothing, none was listed"),
    (
        "dci",
        {"ann/1.json": DCI, "s.json": {"train": [["1.json"]]}},
        ("--annotations", "@ann", "--splits", "@s.json"),
        "'train' must be a list of files of annotations",
    ),
    ("docci", {"a.json": json.dumps(DOCCI).replace("dog", "d\xf4g").encode("latin-1")}, A, "line 1 is not utf-8"),
    ("docci", {"a.json": changed(DOCCI, "image_file", value="1\0.jpg")}, A, "'image_file' must be a path"),
    ("localized_narratives", {"a.json": changed(NARRATIVE, "caption", value=None)}, A, "'caption' must be a text"),
    ("localized_narratives", {"a.json": changed(NARRATIVE, "caption", value=["a"])}, A, "'caption' must be a text"),
    ("localized_narratives", {"a.json": changed(NARRATIVE, "image_id", value=None)}, A, "'image_id' must be"),
    ("sharegpt4v", {"a.json": changed(SHARED, 0, "conversations", value=5)}, (*A, *ALL), "'conversations' must"),
    ("sharegpt4v", {"a.json": json.dumps(SHARED) + "more"}, (*A, *ALL), "nothing must stand behind"),
    (
        "flickr30k_entities",
        {"e/train.txt": "1\n", "e/Sentences/1.txt": "a dog", "e/Annotations/1.xml": XML.replace("XMAX", "9" * 400)},
        ("--annotations", "@e"),
        "'xmax' must be a number of pixels",
    ),
    ("flickr30k_entities", {"e/x": ""}, ("--annotations", "@e"), "train.txt does not exist"),
    ("flickr8k", {"f/x": ""}, ("--annotations", "@f"), "Flickr8k.token.txt does not exist"),
    ("flickr8k", {**FLICKR8K, "f/Flickr8k.token.txt": "1.jpg A dog"}, ("--annotations", "@f"), "line 1 must be NAME#N"),
    ("flickr8k", {**FLICKR8K, "f/Flickr_8k.devImages.txt": "1.jpg"}, ("--annotations", "@f"), "must be of one split"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "files", "words", "message"), REFUSED)
def test_one_line(tmp_path, capsys, source, files, words, message):
    with pytest.raises(SystemExit) as stopped:
        prepare(tmp_path, source, files, *words)
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.count("\n") == 1
    assert message in told
    assert len(told.replace(str(tmp_path), "")) <= 200
    assert not list(tmp_path.glob("out/shard*"))


def test_a_file_of_the_user_s_is_not_overwritten(tmp_path, capsys):
    own = tmp_path / "out" / "settings.json"
    own.parent.mkdir()
    own.write_text('{"theme": "dark"}')
    with pytest.raises(SystemExit):
        prepare(tmp_path, "coco", {"c.json": COCO}, "--captions", "@c.json")
    assert "settings.json is no note of lightning prepare" in capsys.readouterr().err
    assert own.read_text() == '{"theme": "dark"}'


SOURCES = {
    "table": ({"a.csv": "image,caption\n9.jpg,A dog.\n1.jpg,A cat.\n"}, ("--annotations", "@a.csv")),
    "docci": ({"a.json": "\n".join(json.dumps({**DOCCI, "image_file": f}) for f in ("9.jpg", "1.jpg"))}, A),
    "dci": ({"ann/1.json": DCI, "ann/9.json": {**DCI, "image": "9.jpg"}}, ("--annotations", "@ann")),
    "karpathy": ({"a.json": {"images": [*KARPATHY["images"], {**KARPATHY["images"][0], "filename": "9.jpg"}]}}, A),
    "sharegpt4v": ({"a.json": [*SHARED, {**SHARED[0], "image": "9.jpg"}]}, (*A, *ALL)),
    "imageinwords": ({"a.json": "\n".join(json.dumps({"image": n, "IIW": "A dog."}) for n in "19")}, A),
    "localized_narratives": ({"a.json": "\n".join(json.dumps({**NARRATIVE, "image_id": n}) for n in "19")}, A),
    "coco": (
        {
            "c.json": {
                "images": [*COCO["images"], {"id": 9, "file_name": "9.jpg"}],
                "annotations": [{"image_id": n, "caption": "A dog."} for n in (1, 9)],
            }
        },
        ("--captions", "@c.json"),
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_missing_image_stops_every_source_alike(tmp_path, capsys, source):
    files, words = SOURCES[source]
    with pytest.raises(SystemExit):
        prepare(tmp_path, source, files, *words)
    message = capsys.readouterr().err
    assert "1 of the 2 images of" in message
    assert f"are missing, such as {tmp_path / 'images' / '9.jpg'}" in message
    assert len(message.replace(str(tmp_path), "")) <= 210
    assert not (tmp_path / "out").exists()
    assert prepare(tmp_path, source, files, *words, "--skip_missing", "true") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["samples"], manifest["rejects"]) == (1, {"image missing": 1})


def test_images_that_are_folders_are_missing(tmp_path):
    (tmp_path / "images" / "9.jpg").mkdir(parents=True)
    files, words = SOURCES["coco"]
    assert prepare(tmp_path, "coco", files, *words, "--skip_missing", "true") == 0


@pytest.mark.parametrize("note", ["{", "[]", "{}"])
def test_a_note_that_is_none_is_made_anew(tmp_path, note):
    for _ in range(2):
        assert prepare(tmp_path, "coco", {"c.json": COCO}, "--captions", "@c.json") == 0
        (tmp_path / "out" / "shard-000000.json").write_text(note)
    assert prepare(tmp_path, "coco", {"c.json": COCO}, "--captions", "@c.json") == 0
    assert json.loads((tmp_path / "out" / "shard-000000.json").read_text())["samples"] == 1


def test_keys_that_become_alike_are_numbered(tmp_path):
    images = [{"id": key, "file_name": "1.jpg"} for key in ("a b", "a_b", "a.b")]
    captions = [{"image_id": key, "caption": "A dog."} for key in ("a b", "a_b", "a.b")]
    document = {"images": images, "annotations": captions}
    assert prepare(tmp_path, "coco", {"c.json": document}, "--captions", "@c.json") == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["samples"] == 3
    write_tar(
        tmp_path / "a.tar", [{"__key__": key, "jpg": picture(1), "txt": b"A dog."} for key in ("a b", "a_b", "a_b")]
    )
    assert prepare(tmp_path, "tars", {}, "--data", "@a.tar", "--overwrite", "true") == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["samples"] == 3


def test_a_category_without_a_letter_names_nothing(tmp_path):
    files = {"c.json": COCO, "i.json": changed(BOXES, "categories", 0, "name", value="-")}
    assert prepare(tmp_path, "coco", files, "--captions", "@c.json", "--instances", "@i.json") == 0
