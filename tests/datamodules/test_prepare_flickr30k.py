"""The Flickr30k Entities release as shards: captions as people write them, chains linked, nothing lost unsaid."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import nltk
import pytest
from PIL import Image

from datamodules.batch import Grain
from datamodules.batching.text_sampling import GrainSampling
from datamodules.datamodule import GranularityData
from datamodules.formats.flickr30k_entities import read_objects, read_sentences
from datamodules.formats.layout import LayoutError
from datamodules.prepare import prepare_flickr30k_entities
from datamodules.prepare.job import PrepareJob
from lightning_modules.cli.main import main
from tests.datamodules.prepared import linked, read
from tests.helpers.tiny import picture

SENTENCES = """\
[/EN#1/people A man] with [/EN#3/clothing a black dog 's leash] stands in [/EN#4/vehicles/scene the subway] .
[/EN#1/people The man] , in [/EN#2/clothing " Obama " shirt] , does n't run .
[/EN#1/people He] and [/EN#5/people two boys] smile
[/EN#0/notvisual A lot] of [/EN#6/other  things ( and more )] happen ...
[/EN#5/people Two boys '] hats &amp; [/EN#5/people they] wave!
"""


def boxed(chains: str, *corners: float) -> str:
    names = "".join(f"\n\t\t<name>{chain}</name>" for chain in chains.split())
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"\n\t\t\t<{side}>{value}</{side}>" for side, value in sides)
    return f"\n\t<object>{names}\n\t\t<bndbox>{box}\n\t\t</bndbox>\n\t</object>"


def flagged(chain: str, scene: int, nobndbox: int) -> str:
    flags = f"<scene>{scene}</scene><nobndbox>{nobndbox}</nobndbox>"
    return f"\n\t<object>\n\t\t<name>{chain}</name>\n\t\t{flags}\n\t</object>"


def annotation(*objects: str, size: str = "<width>48</width><height>40</height><depth>3</depth>") -> str:
    return f"<annotation>\n\t<filename>x.jpg</filename>\n\t<size>{size}</size>{''.join(objects)}\n</annotation>\n"


class Release:
    """A small release in ``folder``; change its parts, then ``prepare``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str | bytes] = {
            "train.txt": "1007\n12\n",
            "val.txt": "30",
            "Sentences/1007.txt": SENTENCES,
            "Annotations/1007.xml": annotation(
                boxed("1", 1, 1, 25, 41),
                boxed("2 3", 13, 11, 37, 31),
                boxed("5", 25, 1, 49, 21),
                boxed("5", -3, 31, 60, 60),
                flagged("4", 1, 0),
                flagged("6", 0, 1),
            ),
            "Sentences/12.txt": "[/EN#9/animals Dogs] run .\n[/EN#10/scene Outside] .\n",
            "Annotations/12.xml": annotation(flagged("9", 0, 1)),
            "Sentences/30.txt": "[/EN#7/animals A cat] .",
            "Annotations/30.xml": annotation(boxed("7", 1, 1, 5, 5)),
            "images/1007.jpg": picture(1),
            "images/12.jpg": picture(2),
            "images/30.jpg": picture(3, 24, 20),
        }

    def prepare(self, max_side: int | None = None, **options):
        for name, data in self.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        job = PrepareJob(self.folder / "out", max_side=max_side)
        self.manifest = prepare_flickr30k_entities(self.folder / "images", self.folder, job, **options)
        return read(self.folder / "out")


@pytest.fixture
def release(tmp_path: Path, nltk_data) -> Release:
    return Release(tmp_path)


def test_smaller_pictures_keep_their_boxes(release):
    sample = release.prepare(max_side=32)["1007"]
    assert max(Image.open(io.BytesIO(sample.image)).size) == 32
    assert linked(sample)[0] == ("A man", "people", (0, 0, 0.5, 1))


def test_captions_phrases_and_boxes(release):
    samples = release.prepare()
    assert list(samples) == ["1007", "12"]
    sample = samples["1007"]
    assert sample.image == release.files["images/1007.jpg"]
    assert sample.sentences == (
        "A man with a black dog's leash stands in the subway.",
        'The man, in "Obama" shirt, doesn\'t run.',
        "He and two boys smile.",
        "A lot of things (and more) happen...",
        "Two boys' hats & they wave!",
    )
    assert sample.caption == " ".join(sample.sentences)
    assert [(p.text, p.sentence) for p in sample.phrases] == [
        *(("A man", 0), ("a black dog's leash", 0), ("the subway", 0)),
        *(("The man", 1), ('"Obama" shirt', 1)),
        *(("He", 2), ("two boys", 2)),
        *(("A lot", 3), ("things (and more)", 3)),
        *(("Two boys'", 4), ("they", 4)),
    ]
    assert [sample.phrases[i].lemma for i in (0, 1, 2, 6)] == ["man", "leash", "subway", "boy"]
    man, shirt, boys, other = (0, 0, 0.5, 1), (0.25, 0.25, 0.75, 0.75), (0.5, 0, 1, 0.5), (0, 0.75, 1, 1)
    assert linked(sample) == [
        *((name, "people", man) for name in ("A man", "The man", "He")),
        *(('"Obama" shirt', "clothing", shirt), ("a black dog's leash", "clothing", shirt)),
        *((name, "people", boys) for name in ("two boys", "Two boys'", "they")),
        *((name, "people", other) for name in ("two boys", "Two boys'", "they")),
    ]
    assert (samples["12"].caption, samples["12"].regions) == ("Dogs run. Outside.", ())
    assert release.manifest["rejects"] == {"no box": 1}
    assert release.manifest["source"] == sample.source == "flickr30k_entities"


def test_the_split_is_an_argument(release):
    (cat,) = release.prepare(split="val").values()
    assert linked(cat) == [("A cat", "animals", (0, 0, 0.083333, 0.1))]  # the image is a copy of half the size


def test_the_reader_trains_on_them(release):
    release.prepare()
    data = GranularityData(
        str(release.folder / "out"),
        str(release.folder / "out"),
        val_batch_size=2,
        num_workers=0,
        sampling=GrainSampling(5, 30),
    )
    data.setup("validate")
    (batch,) = data.val_dataloader()
    assert batch.grains[Grain.PHRASE].valid.sum(1).tolist() == [11, 2]
    assert len(batch.regions.boxes) == 4
    assert len(batch.regions.links) == 3 + 2 + 3 + 3
    assert batch.counts == {}


def test_each_thing_left_out_is_counted(release, caplog):
    release.files["train.txt"] = "1007\n12\n1\n2\n3\n"
    release.files["Annotations/1007.xml"] = annotation(
        boxed("1", 5, 5, 5, 9), boxed("1", 9, 5, 5, 9), boxed("1", 60, 5, 70, 9), boxed("99 0", 1, 1, 25, 41)
    )
    release.files["Sentences/1007.txt"] += "[/EN#1/people -- ] [/EN#1/people Tom] .\n ...\n"
    for number in "123":
        release.files[f"Sentences/{number}.txt"] = " . \n" if number == "1" else "[/EN#1/people A man] ."
        release.files[f"Annotations/{number}.xml"] = annotation(boxed("1", 1, 1, 9, 9))
    release.files["images/1.jpg"] = picture()
    release.files["images/2.jpg"] = picture(0, 40, 48)
    with caplog.at_level(logging.INFO, "grainclip"):
        samples = release.prepare(skip_missing=True)
    assert linked(samples["1007"]) == [(None, None, (0, 0, 0.5, 1))]  # no sentence names chain 99; 0 names nothing
    assert release.manifest["rejects"] == {
        "box of an image left out": 3,
        "box outside the image": 1,
        "box without area": 2,
        "caption without words": 2,
        "image missing": 1,
        "image shape differs from its annotation's": 1,
        "no box": 1,
        "no caption": 1,
        "phrase without words": 1,
    }
    assert "left out: 1 × image missing (3)" in caplog.text
    assert release.manifest["statistics"]["named_boxes"] == {"0": 2}


def test_without_nltk_data_there_are_no_lemmas_and_the_log_says_so(release, monkeypatch, caplog):
    monkeypatch.setattr(nltk.data, "path", [str(release.folder)])
    with caplog.at_level(logging.WARNING, "grainclip"):
        samples = release.prepare()
    assert {phrase.lemma for sample in samples.values() for phrase in sample.phrases} == {""}
    assert "NLTK's data is missing (punkt_tab, averaged_perceptron_tagger_eng): phrases get no lemmas" in caplog.text


def test_missing_files_stop_the_run(release):
    release.files["train.txt"] += "77\n"
    with pytest.raises(FileNotFoundError, match=r"train\.txt lists an image whose .*Sentences.77\.txt does not exist"):
        release.prepare()
    release.files |= {"Sentences/77.txt": "A dog .", "Annotations/77.xml": annotation()}
    with pytest.raises(
        FileNotFoundError, match=r"^1 of the 3 images of train\.txt are missing, such as .*77\.jpg; --images"
    ):
        release.prepare()
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        release.prepare(split="test")
    assert not (release.folder / "out").exists()


SIZE = "<width>48</width><height>40</height>"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.txt", "12\n../12\n", r"train\.txt: line 2 must be an image's id, letters and digits, got '\.\./12'"),
        ("train.txt", "12\n\n12\n", r"train\.txt: ids must differ, got '12' again in line 3"),
        (
            "Sentences/12.txt",
            "ok .\n[/EN#1/ Dogs] .",
            r"12\.txt: line 2 must mark entities as \[/EN#CHAIN/TYPE words\]",
        ),
        ("Sentences/12.txt", "[/EN#1/people Dogs .", r"12\.txt: line 1 must mark entities"),
        ("Sentences/12.txt", "[/EN#1/people A [/EN#2/people dog] b] .", r"line 1 must mark entities"),
        ("Sentences/12.txt", b"caf\xe9 .", r"12\.txt is not UTF-8"),
        ("Annotations/12.xml", "<annotation>", r"12\.xml is not XML"),
        ("Annotations/12.xml", "<annotation/>", r"12\.xml: 'size/width' must be a number of pixels, got None"),
        (
            "Annotations/12.xml",
            annotation(size=SIZE.replace("40", "0")),
            r"'size' must be pixels above 0, got \[48\.0, 0",
        ),
        ("Annotations/12.xml", annotation(boxed("", 1, 1, 2, 2)), r"object\[0\]\.'name' must be the number of a chain"),
        ("Annotations/12.xml", annotation(boxed("1 a", 1, 1, 2, 2)), r"'name' must be .* got \['1', 'a'\]"),
        (
            "Annotations/12.xml",
            annotation(boxed("1", 1, 1, 2, 2), boxed("1", 1, 1, 2, 2).replace("<xmax>2", "<xmax>two")),
            r"12\.xml: object\[1\]\.bndbox\.'xmax' must be a number of pixels, got 'two'",
        ),
        ("Annotations/12.xml", annotation(flagged("1", 0, 0)), r"object\[0\]\.'bndbox' must be there where neither"),
    ],
)
def test_a_wrong_layout_is_named(release, name, text, message):
    release.files[name] = text
    with pytest.raises(LayoutError, match=message):
        release.prepare()


@pytest.mark.parametrize(
    ("line", "text", "phrases"),
    [
        ("[/EN#1/people A man] 's hat .", "A man's hat.", ["A man"]),
        ("[/EN#1/people A man]'s hat.", "A man's hat.", ["A man"]),
        ('A " [/EN#1/other Stop] " sign', 'A "Stop" sign', ["Stop"]),
        ('A " [/EN#1/other Stop sign] .', 'A " Stop sign.', ["Stop sign"]),
        ("[/EN#1/other 's things] , [/EN#2/other ( b )] : c", "'s things, (b): c", ["'s things", "(b)"]),
        ("[/EN#1/other 5 %] is n't [/EN#2/other t-shirt ]!", "5% isn't t-shirt!", ["5%", "t-shirt"]),
        ("the ' 90s and [/EN#1/people boys ' hats]", "the ' 90s and boys' hats", ["boys' hats"]),
        ("plain text", "plain text", []),
    ],
)
def test_spaces_of_the_tokeniser_are_taken_out(tmp_path, line, text, phrases):
    (tmp_path / "1.txt").write_text(line)
    (found,) = read_sentences(tmp_path / "1.txt")
    assert found.text == text
    assert [found.text[e.span.start : e.span.end] for e in found.entities] == phrases


def test_boxes_count_from_one(tmp_path):
    (tmp_path / "1.xml").write_text(annotation(boxed("3 4", 1, 2, 30, 40)))
    objects = read_objects(tmp_path / "1.xml")
    assert objects.size == (48, 40)
    assert [tuple(box) for box in objects.boxes] == [((0, 1, 29, 39), ["3", "4"])]


def test_the_command_line_can_be_built(release):
    release.prepare()
    arguments = [f"--images={release.folder / 'images'}", f"--annotations={release.folder}", "--split=val"]
    assert main(["prepare", "flickr30k_entities", *arguments, f"--out={release.folder / 'cli'}"]) == 0
    assert len(read(release.folder / "cli")) == 1
