"""The Flickr8k release as shards: captions as people write them, its lists' splits, every caption accounted for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from datamodules.formats.flickr_captions import LISTS, read_captions, read_flickr8k
from datamodules.formats.layout import LayoutError
from datamodules.formats.tokenised_captions import full_sentence, plain_sentence
from datamodules.prepare import prepare_flickr8k
from datamodules.prepare.job import PrepareJob
from lightning_modules.cli.main import main
from tests.datamodules.prepared import read
from tests.helpers.tiny import picture

CHILD, DOG, CAFE, BOAT, ODD = "10_a.jpg", "11_b.jpg", "12_c.jpg", "13_d.jpg", "2258277193_586949ec62.jpg.1"
CAPTIONS = {
    CHILD: (
        "A child in a pink dress is climbing up the stairs .",
        'The child \'s sign says " active . "',
        "A girl climbs",
        "A little girl , in a dress , climbs ,",
        "a girl does n't look back !",
    ),
    DOG: ("A black dog\truns\tfast .", "A dog runs .", "Two dogs ' ball .", " . ", "A dog runs ?"),
    CAFE: ("Two women sit in a café \u2028 by the sea .", "A naïve \x85 crêpe .", "Tea .", "Women .", "日本 sign ."),
    BOAT: tuple(f"A boat , number {n} ." for n in range(5)),
    ODD: tuple(f"A dog jumps over bar {n} ." for n in range(5)),
}


class Release:
    """A small release in ``folder``; change its parts, then ``prepare``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.captions = {f"{name}#{n}": text for name, texts in CAPTIONS.items() for n, text in enumerate(texts)}
        self.files: dict[str, bytes] = {
            **{LISTS[split]: f"{names}\r\n".encode() for split, names in self.lists().items()},
            **{f"images/{name}": picture(n) for n, name in enumerate((CHILD, DOG, CAFE, BOAT))},
        }

    @staticmethod
    def lists() -> dict[str, str]:
        return {"train": f"{DOG}\r\n{CHILD}", "dev": CAFE, "test": BOAT}

    def write(self) -> Path:
        text = "".join(f"{key}\t{caption}\r\n" for key, caption in self.captions.items())
        for name, data in {"Flickr8k.token.txt": text.encode(), **self.files}.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return self.folder

    def prepare(self, split: str = "train", **options):
        self.write()
        job = PrepareJob(self.folder / "out", extractor="rules", quiet=True)
        self.manifest = prepare_flickr8k(self.folder / "images", self.folder, job, split, **options)
        return read(self.folder / "out")


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


def test_five_captions_become_five_sentences(release):
    samples = release.prepare()
    assert list(samples) == ["11_b", "10_a"]  # the list's order
    sample = samples["10_a"]
    assert sample.image == release.files[f"images/{CHILD}"]
    assert sample.sentences == (
        "A child in a pink dress is climbing up the stairs.",
        'The child\'s sign says "active."',
        "A girl climbs.",
        "A little girl, in a dress, climbs.",
        "a girl doesn't look back!",
    )
    assert sample.caption == " ".join(sample.sentences)
    assert sample.summary == sample.sentences[0]
    assert {"A child", "a pink dress", "A little girl"} <= {phrase.text for phrase in sample.phrases}
    assert sample.source == release.manifest["source"] == "flickr8k"
    assert samples["11_b"].sentences == ("A black dog runs fast.", "A dog runs.", "Two dogs' ball.", "A dog runs?")


def test_what_is_left_out_is_counted(release, caplog):
    with caplog.at_level(logging.WARNING, "grainclip"):
        release.prepare()
    assert release.manifest["rejects"] == {"caption of an image in no list": 5, "caption without words": 1}
    assert f"left out: 5 × caption of an image in no list ({ODD}#0, {ODD}#1, {ODD}#2, ...)" in caplog.text


def test_letters_of_any_language_stay_and_no_odd_space_ends_a_line(release):
    (sample,) = release.prepare("dev").values()
    assert sample.sentences[0] == "Two women sit in a café by the sea."
    assert sample.sentences[1].startswith("A naïve")
    assert sample.sentences[4] == "日本 sign."
    assert len(sample.sentences) == 5


def test_a_missing_picture_stops_the_run_or_is_counted(release):
    del release.files[f"images/{DOG}"]
    with pytest.raises(
        FileNotFoundError, match=r"^1 of the 2 images of Flickr_8k\.trainImages\.txt are missing, .*11_b"
    ):
        release.prepare()
    assert not (release.folder / "out").exists()
    assert list(release.prepare(skip_missing=True)) == ["10_a"]
    assert release.manifest["rejects"]["image missing"] == 1


def test_an_image_in_the_list_without_captions_is_counted(release):
    for number in range(5):
        del release.captions[f"{DOG}#{number}"]
    assert list(release.prepare()) == ["10_a"]
    assert release.manifest["rejects"] == {"caption of an image in no list": 5, "no caption": 1}


def test_the_odd_name_is_an_image_that_is_missing_where_a_list_has_it(release):
    release.files[LISTS["train"]] += ODD.encode()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images .* missing, such as .*ec62\.jpg\.1;"):
        release.prepare()
    release.prepare(skip_missing=True)
    assert release.manifest["rejects"] == {"caption without words": 1, "image missing": 1}


def test_the_other_lists_may_be_missing(release):
    del release.files[LISTS["test"]]
    assert list(release.prepare()) == ["11_b", "10_a"]
    assert release.manifest["rejects"]["caption of an image in no list"] == 10
    with pytest.raises(FileNotFoundError, match=r"the annotation file .*Flickr_8k\.testImages\.txt does not exist"):
        release.prepare("test")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (LISTS["train"], f"{DOG}\n\n../x.jpg", r"trainImages\.txt: line 3 must be a path inside .* got '\.\./x\.jpg'"),
        (LISTS["train"], f"{DOG}\n{DOG}", r"trainImages\.txt: names must differ, got '11_b\.jpg' again in line 2"),
        (LISTS["train"], " \n", r"trainImages\.txt must list images, got none"),
        (LISTS["dev"], DOG, r"devImages\.txt: an image must be of one split, got '11_b\.jpg', which Flickr_8k\.train"),
        (LISTS["train"], b"caf\xe9.jpg", r"trainImages\.txt is not UTF-8"),
        ("token", f"{DOG}#0 A dog .", r"token\.txt: line 1 must be NAME#N, a tab and a caption, got '11_b\.jpg#0 A"),
        ("token", f"{DOG}#0\tA dog .\n{DOG}#0\tA .", r"caption must stand once, got '11_b\.jpg#0' again in line 2"),
        ("token", f"{DOG}#0\tA dog .\n../{DOG}#1\tA .", r"line 2 must be NAME#N"),
        ("token", "", r"token\.txt must hold captions, got none"),
        ("token", b"11_b.jpg#0\tA caf\xe9 .", r"token\.txt is not UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_layout_is_named(release, file, text, message):
    data = text if isinstance(text, bytes) else text.encode()
    release.files["Flickr8k.token.txt" if file == "token" else file] = data
    with pytest.raises(LayoutError, match=message):
        release.prepare()
    assert not (release.folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Three men sit , doing paperwork , .", "Three men sit, doing paperwork."),
        ("A dog , thrown at it ,", "A dog, thrown at it."),
        ('A sign that says " WHERE ARE YOU " ?', 'A sign that says "WHERE ARE YOU"?'),
        ("Race car # 25 .", "Race car # 25."),
        ("An exhibit entitled ' Other People 's Photographs ' .", "An exhibit entitled ' Other People's Photographs'."),
        ("Newspapers in Washington D.C.", "Newspapers in Washington D.C."),
        ("Dogs ( brown , white )", "Dogs (brown, white)."),
        (" . ", ""),
    ],
)
def test_captions_as_people_write_them(text, sentence):
    assert plain_sentence(text) == sentence
    assert full_sentence(sentence) == sentence


def test_the_command(release):
    release.write()
    given = [f"--images={release.folder / 'images'}", f"--annotations={release.folder}", "--split=dev"]
    assert main(["prepare", "flickr8k", *given, f"--out={release.folder / 'cli'}", "--extractor=rules"]) == 0
    assert list(read(release.folder / "cli")) == ["12_c"]


@pytest.fixture(scope="module")
def flickr8k(shared) -> Path:
    folder = shared / "data" / "flickr8k"
    if not folder.is_dir():
        pytest.skip("needs Flickr8k's photographs and captions in ../shared/data/flickr8k")
    return folder


@pytest.mark.parametrize(("split", "images"), [("train", 6000), ("dev", 1000)])
def test_the_release_s_own_captions(flickr8k, split, images):
    captions, unlisted = read_flickr8k(flickr8k, split)
    assert len(captions) == images
    assert {len(texts) for texts in captions.values()} == {5}
    assert not unlisted
    for text in (text for texts in captions.values() for text in texts):
        sentence = plain_sentence(text)
        assert sentence.rstrip("\"'")[-1] in ".!?"
        assert " ." not in sentence
        assert sentence.replace(" ", "").rstrip(".") == text.replace(" ", "").rstrip(".").rstrip(",")
        assert sentence == plain_sentence(sentence)


def test_the_release_s_photographs(flickr8k, nltk_data, tmp_path):
    (tmp_path / "text").mkdir()
    names = (flickr8k / LISTS["dev"]).read_text().split()[:200]
    (tmp_path / "text" / LISTS["dev"]).write_text("\n".join(names))
    (tmp_path / "text" / "Flickr8k.token.txt").symlink_to(flickr8k / "Flickr8k.token.txt")
    job = PrepareJob(tmp_path / "out", samples_per_shard=100, quiet=True)
    manifest = prepare_flickr8k(flickr8k / "Flicker8k_Dataset", tmp_path / "text", job, "dev")
    assert manifest is not None
    assert [shard["samples"] for shard in manifest["shards"].values()] == [100, 100]
    assert manifest["rejects"] == {"caption of an image in no list": 34_000}
    samples, captions = read(tmp_path / "out"), read_captions(flickr8k / "Flickr8k.token.txt")
    assert [f"{key}.jpg" for key in samples] == names
    for name, sample in zip(names, samples.values(), strict=True):
        assert sample.image == (flickr8k / "Flicker8k_Dataset" / name).read_bytes()
        assert sample.sentences == tuple(map(plain_sentence, captions[name]))
        assert sample.summary == sample.sentences[0]
        assert len(sample.phrases) >= 4
