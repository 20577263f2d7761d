"""COCO's own photographs, captions and boxes as shards: everything there, links as a person would draw them."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from datamodules.prepare import prepare_coco
from datamodules.prepare.job import PrepareJob
from datamodules.sample import Sample
from tests.datamodules.prepared import read

pytestmark = pytest.mark.usefixtures("nltk_data")


@pytest.fixture(scope="module")
def real(shared, nltk_data, tmp_path_factory) -> dict[str, tuple[dict, dict, dict, dict[str, Sample]]]:
    """For train and val: captions file, instances file, manifest, samples."""
    source, out = shared / "data" / "coco_tiny", tmp_path_factory.mktemp("coco")
    sets = {}
    for name in ("train", "val"):
        captions, instances = (source / "annotations" / f"{kind}_{name}2017.json" for kind in ("captions", "instances"))
        manifest = prepare_coco(
            source / f"{name}2017", captions, PrepareJob(out / name, samples_per_shard=20), instances
        )
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
    manifest = prepare_coco(
        source / f"{name}2017", captions, PrepareJob(tmp_path), proposals=instances, max_proposals=1000
    )
    expected = Counter(f"{row['image_id']:012d}" for row in annotations if not row["iscrowd"])
    samples = read(tmp_path)
    assert len(samples) == 50
    assert Counter({key: len(sample.regions) for key, sample in samples.items()}) == expected
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
        sample, boxes_of = samples[key], {}
        for region in sample.regions:
            name = None if region.phrase is None else sample.phrases[region.phrase].text
            boxes_of.setdefault(region.label, set()).add(name)
        return boxes_of

    moped = links("000000391895")
    assert {"a small moped", "a motorcycle"} <= moped["motorcycle"]
    assert "A man" in moped["person"]
    assert links("000000522418")["cake"] == {"a cake", "a large white sheet cake", "a large sheet cake", "a white cake"}
    assert links("000000522418")["sink"] == {None}
    assert "A group of people" in links("000000554625")["person"]
