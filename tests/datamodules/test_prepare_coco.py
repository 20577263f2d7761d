"""COCO's files as shards: nothing lost uncounted, links true, wrong files named."""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from pathlib import Path

import nltk
import pytest
from jsonargparse import auto_cli
from PIL import Image

from datamodules.granularity import extract_phrases
from datamodules.nltk_data import NltkDataError
from datamodules.prepare import SOURCES, prepare_coco
from datamodules.prepare.coco_names import CategoryNames
from datamodules.prepare.layout import LayoutError
from datamodules.prepare.rejects import Rejects
from datamodules.prepare.text import as_sentence, tidy
from datamodules.sample import Sample
from datamodules.shards import find_shards
from tests.datamodules.prepared import linked, read

pytestmark = pytest.mark.usefixtures("nltk_data")


def picture(form: str = "JPEG", size: tuple[int, int] = (40, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, form)
    return file.getvalue()


class Coco:
    """A small data set in COCO's layout, written to ``folder``; change its parts, then ``prepare``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {"1.jpg": picture(), "sub/2.png": picture("PNG")}
        self.captions: dict = {
            "images": [
                {"id": 1, "file_name": "1.jpg", "width": 40, "height": 20},
                {"id": 2, "file_name": "sub/2.png", "width": 40, "height": 20},
            ],
            "annotations": [
                {"image_id": 1, "caption": "A man  walks\na dog "},
                {"image_id": 2, "caption": "A red bus."},
                {"image_id": 1, "caption": "Two dogs &amp; a bench!"},
            ],
        }
        self.instances: dict = {
            "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 6, "name": "bus"}],
            "annotations": [
                {"id": 7, "image_id": 1, "category_id": 18, "bbox": [10, 5, 20, 10], "iscrowd": 0},
                {"id": 8, "image_id": 1, "category_id": 1, "bbox": [30, -5, 20, 15], "segmentation": [[1, 2]]},
            ],
        }
        self.proposals: dict | None = None

    def prepare(self, **options) -> dict[str, Sample]:
        for name, data in self.files.items():
            path = self.folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        documents = {name: getattr(self, name) for name in ("captions", "instances", "proposals")}
        places = {name: self.folder / f"{name}.json" for name, document in documents.items() if document is not None}
        for name, path in places.items():
            document = documents[name]
            path.write_text(document if isinstance(document, str) else json.dumps(document))
        self.manifest = prepare_coco(self.folder / "images", out=self.folder / "out", **places, **options)
        return read(self.folder / "out")


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    return Coco(tmp_path)


DOG = [(phrase, "dog", (0.25, 0.25, 0.75, 0.75)) for phrase in ("a dog", "Two dogs")]
MAN = [("A man", "person", (0.75, 0.0, 1.0, 0.5))]


def test_a_small_set(coco):
    samples = coco.prepare()
    assert list(samples) == ["000000000001", "000000000002"]
    one, two = samples.values()
    assert one.image == coco.files["1.jpg"]
    assert one.caption == "A man walks a dog. Two dogs & a bench!"
    assert one.sentences == ("A man walks a dog.", "Two dogs & a bench!")
    assert one.source == "coco"
    assert linked(one) == [*DOG, *MAN]
    assert (two.extension, two.sentences, two.regions) == ("png", ("A red bus.",), ())
    assert coco.manifest["rejects"] == {}


def test_without_instances(coco):
    coco.prepare()
    out = coco.folder / "captions only"
    prepare_coco(coco.folder / "images", coco.folder / "captions.json", out)
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
        "box outside the picture": 1,
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
    assert "2 boxes, 2 of them named by a phrase" in caplog.text


def proposed(*boxes: list[float], scores: tuple[float, ...] = (), **more: object) -> dict:
    """A proposals file for image 1."""
    rows = [{"image_id": 1, "bbox": box, **more} for box in boxes]
    for row, score in zip(rows, scores, strict=False):
        row["score"] = score
    return {"annotations": rows}


def test_proposals_have_no_phrase_and_no_label(coco):
    coco.proposals = proposed([0, 0, 20, 10], [35, 15, 10, 10], category_id=1)
    samples = coco.prepare()
    wanted = [(None, None, (0, 0, 0.5, 0.5)), (None, None, (0.875, 0.75, 1, 1))]
    assert linked(samples["000000000001"]) == [*DOG, *MAN, *wanted]
    assert samples["000000000002"].regions == ()
    assert coco.manifest["rejects"] == {}
    coco.instances = None
    assert linked(coco.prepare(overwrite=True)["000000000001"]) == wanted


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
        "box outside the picture": 1,
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
    with pytest.raises(FileNotFoundError, match=r"^5 of the 7 images .* gone5.jpg, gone6.jpg, gone7.jpg, \.\.\.; --im"):
        coco.prepare()
    assert not (coco.folder / "out").exists()


def test_no_image_left(coco):
    coco.captions["annotations"] = []
    with pytest.raises(ValueError, match=r"no sample of 'coco' was left to write; rejected: .*'no caption': 2"):
        coco.prepare()


def test_shards_are_not_overwritten_unasked(coco):
    coco.prepare(samples_per_shard=1)
    assert [shard.samples for shard in find_shards(coco.folder / "out")] == [1, 1]
    with pytest.raises(FileExistsError, match="already holds"):
        coco.prepare()
    coco.prepare(overwrite=True)
    assert [shard.samples for shard in find_shards(coco.folder / "out")] == [2]


def test_text_ids_make_keys(coco):
    for row in [*coco.captions["images"], *coco.captions["annotations"], *coco.instances["annotations"]]:
        for name in {"id", "image_id"} & row.keys():
            row[name] = f"img.{row[name]}/x"
    assert list(coco.prepare()) == ["img_1_x", "img_2_x"]


def change(name: str, *path: object, value: object) -> object:
    """A function that sets one field of a ``Coco``; ``value`` "gone" deletes it."""

    def apply(coco: Coco) -> None:
        *above, last = (name, *path)
        target: object = coco.__dict__
        for step in above:
            target = target[step]
        if value == "gone":
            del target[last]
        else:
            target[last] = value

    return apply


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change("captions", value="{"), r"captions\.json is not JSON"),
        (change("captions", value="[1]"), r"captions\.json: the JSON must be an object, got list"),
        (change("captions", "images", value="gone"), r"captions\.json: 'images' must be a list, .* got NoneType"),
        (change("captions", "images", 1, value=3), r"'images\[1\]' must be an object, got 3"),
        (change("captions", "images", 1, "id", value=1), r"image ids must differ, got 1 twice in 'images'"),
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
        prepare_coco(tmp_path, tmp_path / "none.json", tmp_path / "out")


def test_missing_nltk_data_is_told_first(monkeypatch, tmp_path):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(NltkDataError, match=r"python -m nltk\.downloader punkt_tab"):
        prepare_coco(tmp_path, tmp_path / "none.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_can_be_built(coco):
    coco.prepare()
    folder = coco.folder
    given = [f"--images={folder / 'images'}", f"--captions={folder / 'captions.json'}", f"--out={folder / 'cli'}"]
    manifest = auto_cli(SOURCES[0], args=given, as_positional=False)
    assert manifest["samples"] == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" A dog ", "A dog."),
        ("A dog\n runs .", "A dog runs ."),
        ("Is it?", "Is it?"),
        ("A dog, ", "A dog."),
        ('A sign says "STOP"', 'A sign says "STOP".'),
        ("Tom &amp;amp; Jerry\x00\u200b", "Tom & Jerry."),
        ("The dogâ€™s bone", "The dog's bone."),
        (" ... ", ""),
        ("", ""),
    ],
)
def test_captions_become_sentences(text, sentence):
    assert as_sentence(text) == sentence
    assert tidy(sentence) == sentence


COCO_NAMES = ("person", "bicycle", "car", "motorcycle", "airplane", "bus", "truck", "traffic light", "dog", "bear")
COCO_NAMES += ("handbag", "tie", "suitcase", "skis", "sports ball", "wine glass", "cup", "hot dog", "chair", "couch")
COCO_NAMES += (
    "potted plant",
    "dining table",
    "tv",
    "laptop",
    "cell phone",
    "scissors",
    "teddy bear",
    "knife",
    "orange",
)


@pytest.mark.parametrize(
    ("text", "labels", "named"),
    [
        ("Two women with a boy.", "person dog", "person person"),
        ("A group of people.", "person", "person"),
        ("A bike.", "bicycle,motorcycle", "bicycle"),
        ("A bike.", "motorcycle,person", "motorcycle"),
        ("A hot dog.", "dog,hot dog", "hot dog"),
        ("A hot dog.", "dog", ""),
        ("Three teddy bears and a bear.", "bear,teddy bear", "teddy bear bear"),
        ("Two wine glasses.", "wine glass,cup", "wine glass"),
        ("A man with glasses.", "wine glass,cup", ""),
        ("A pair of skis and scissors.", "skis,scissors", "skis scissors"),
        ("A sofa, a television and her mobile phone.", "couch,tv,cell phone", "couch tv cell phone"),
        ("The man's knives.", "person,knife", "knife"),
        ("A bathroom with no chair.", "chair", ""),
        ("A bus stop near a clock tower.", "bus", ""),
        ("To the left of it.", "person", ""),
        ("A dog.", "cat", ""),
    ],
)
def test_head_nouns_name_categories(text, labels, named):
    names = CategoryNames([*COCO_NAMES, "cat"])
    phrases = extract_phrases(text, [text])
    found = names.phrases_by_label(phrases, labels.split(",") if "," in labels else labels.split(" ", 1))
    by_phrase = sorted((index, label) for label, indices in found.items() for index in indices)
    assert " ".join(label for _, label in by_phrase) == named


def test_categories_of_other_sets_have_their_own_names():
    text = "Two street signs and a cat."
    found = CategoryNames(["street-sign", "mailbox"]).phrases_by_label(extract_phrases(text, [text]), ["street-sign"])
    assert found == {"street-sign": [0]}


def test_rejects_keep_a_few_names(caplog):
    rejects = Rejects(examples=2)
    for name in "abc":
        rejects.add("odd", name)
    rejects.report()
    assert rejects == {"odd": 3}
    assert "left out: 3 × odd (a, b, ...)" in caplog.text


@pytest.fixture(scope="module")
def real(shared, nltk_data, tmp_path_factory) -> dict[str, tuple[dict, dict, dict, dict[str, Sample]]]:
    """For train and val: captions file, instances file, manifest, samples."""
    source, out = shared / "data" / "coco_tiny", tmp_path_factory.mktemp("coco")
    sets = {}
    for name in ("train", "val"):
        captions, instances = (source / "annotations" / f"{kind}_{name}2017.json" for kind in ("captions", "instances"))
        manifest = prepare_coco(source / f"{name}2017", captions, out / name, instances, samples_per_shard=20)
        sets[name] = (*(json.loads(f.read_text()) for f in (captions, instances)), manifest, read(out / name))
    return sets


def test_every_photograph_and_caption_is_there(real, shared):
    for name, (captions, _, manifest, samples) in real.items():
        assert [shard["samples"] for shard in manifest["shards"].values()] == [20, 20, 10]
        assert list(samples) == [f"{image['id']:012d}" for image in captions["images"]]
        for image in captions["images"]:
            sample = samples[f"{image['id']:012d}"]
            assert sample.image == (shared / "data/coco_tiny" / f"{name}2017" / image["file_name"]).read_bytes()
            texts = [a["caption"] for a in captions["annotations"] if a["image_id"] == image["id"]]
            assert [s.rstrip(" .") for s in sample.sentences] == [" ".join(t.split()).rstrip(" .,") for t in texts]
            assert sample.caption == " ".join(sample.sentences)
            assert len(sample.phrases) >= 4
            for phrase in sample.phrases:
                assert sample.caption[phrase.start : phrase.end] == phrase.text
                assert phrase.text in sample.sentences[phrase.sentence]


def test_every_box_is_written_or_counted(real):
    for _, instances, manifest, samples in real.values():
        names = {category["id"]: category["name"] for category in instances["categories"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in instances["images"]}
        crowds = sum(annotation["iscrowd"] for annotation in instances["annotations"])
        assert crowds
        assert manifest["rejects"] == {"crowd box": crowds}
        written: dict[str, set] = {key: {(r.label, *r.box) for r in sample.regions} for key, sample in samples.items()}
        expected: dict[str, set] = {key: set() for key in samples}
        for annotation in instances["annotations"]:
            if not annotation["iscrowd"]:
                x, y, w, h = annotation["bbox"]
                width, height = sizes[annotation["image_id"]]
                corners = (x / width, y / height, (x + w) / width, (y + h) / height)
                box = tuple(round(min(max(value, 0.0), 1.0), 6) for value in corners)
                expected[f"{annotation['image_id']:012d}"].add((names[annotation["category_id"]], *box))
        assert written == expected


@pytest.mark.parametrize("name", ["train", "val"])
def test_every_box_of_the_photographs_passes_as_a_proposal(shared, tmp_path, name):
    source = shared / "data/coco_tiny"
    captions, instances = (source / "annotations" / f"{kind}_{name}2017.json" for kind in ("captions", "instances"))
    annotations = json.loads(instances.read_text())["annotations"]
    manifest = prepare_coco(source / f"{name}2017", captions, tmp_path, proposals=instances, max_proposals=1000)
    wanted = Counter(f"{row['image_id']:012d}" for row in annotations if not row["iscrowd"])
    samples = read(tmp_path)
    assert len(samples) == 50
    assert Counter({key: len(sample.regions) for key, sample in samples.items()}) == wanted
    assert manifest["rejects"] == {"crowd box": sum(row["iscrowd"] for row in annotations)}
    assert {(region.phrase, region.label) for sample in samples.values() for region in sample.regions} == {(None, None)}


def test_a_box_stands_once_for_each_phrase_that_names_it(real):
    linked = 0
    for _, _, _, samples in real.values():
        for sample in samples.values():
            assert len(set(sample.regions)) == len(sample.regions)
            for label in {region.label for region in sample.regions}:
                links = {region.phrase for region in sample.regions if region.label == label}
                boxes = {region.box for region in sample.regions if region.label == label}
                assert len([r for r in sample.regions if r.label == label]) == len(links) * len(boxes)
                linked += len(boxes) * (links != {None})
    assert linked > 480


def test_known_links_of_real_photographs(real):
    samples = real["train"][3] | real["val"][3]

    def links(key: str) -> dict[str, set[str | None]]:
        sample, found = samples[key], {}
        for region in sample.regions:
            name = None if region.phrase is None else sample.phrases[region.phrase].text
            found.setdefault(region.label, set()).add(name)
        return found

    moped = links("000000391895")
    assert {"a small moped", "a motorcycle"} <= moped["motorcycle"]
    assert "A man" in moped["person"]
    assert links("000000522418")["cake"] == {"a cake", "a large white sheet cake", "a large sheet cake", "a white cake"}
    assert links("000000522418")["sink"] == {None}
    assert "A group of people" in links("000000554625")["person"]
