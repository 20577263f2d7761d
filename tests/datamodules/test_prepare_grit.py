"""GRIT as img2dataset writes it, from tars and from folders: offsets true after mending, nothing lost uncounted."""

from __future__ import annotations

import io
import itertools
import json
import logging
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from datamodules.formats.layout import LayoutError
from datamodules.prepare import prepare_grit
from datamodules.prepare.grit import find_sources
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import Rejects
from datamodules.shards.discovery import ShardError
from lightning_modules.cli.main import main
from tests.datamodules.prepared import linked, read
from tests.helpers.tiny import picture

pytestmark = pytest.mark.usefixtures("nltk_data")

CAPTION = "A dog in a field of flowers. Two cats sleep"
SIZES = {"width": 48, "height": 40, "original_width": 96, "original_height": 80}


def entry(text: str, phrase: str, *box: float, score: float = 0.9) -> list[float]:
    start = text.index(phrase)
    return [float(start), float(start + len(phrase)), *box, score]


def record(caption: str = CAPTION, **changes) -> dict:
    chunks = [
        entry(CAPTION, "A dog", 0.1, 0.2, 0.3, 0.4),
        entry(CAPTION, "Two cats", 0.5, 0.5, 0.75, 1.0),
        entry(CAPTION, "Two cats", -0.25, 0.5, 0.5, 1.125, score=0.66),
    ]
    expressions = [
        entry(CAPTION, "A dog in a field of flowers", 0.1, 0.2, 0.3, 0.4),
        entry(CAPTION, "Two cats", 0.5, 0.5, 0.75, 1.0),
    ]
    fields = {"caption": caption, "noun_chunks": chunks, "ref_exps": expressions, **SIZES, "status": "success"}
    return {**fields, **changes}


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def files_of(*records: object, start: int = 0) -> dict[str, bytes]:
    """KEY.jpg, KEY.json and KEY.txt of each record, as img2dataset writes them."""
    files: dict[str, bytes] = {}
    for number, fields in enumerate(records, start):
        files[f"{number:09d}.jpg"] = picture(number)
        files[f"{number:09d}.json"] = json.dumps(fields).encode()
        files[f"{number:09d}.txt"] = b"the caption again"
    return files


def prepare(folder: Path, *records: object, max_side: int | None = None, **options):
    folder.joinpath("grit").mkdir()
    write_tar(folder / "grit/00000.tar", files_of(*records))
    (folder / "grit/00000_stats.json").write_text("{}")
    manifest = prepare_grit(str(folder / "grit"), PrepareJob(folder / "out", max_side=max_side), **options)
    return manifest, read(folder / "out")


def test_chunks_and_expressions(tmp_path):
    manifest, samples = prepare(tmp_path, record())
    (sample,) = samples.values()
    assert (sample.key, sample.source, sample.image) == ("000000000", "grit", picture(0))
    assert sample.sentences == ("A dog in a field of flowers.", "Two cats sleep")
    assert [(p.text, p.sentence, p.lemma) for p in sample.phrases] == [
        ("A dog", 0, "dog"),
        ("A dog in a field of flowers", 0, "dog"),
        ("Two cats", 1, "cat"),
    ]
    assert linked(sample) == [
        ("A dog", None, (0.1, 0.2, 0.3, 0.4)),
        ("Two cats", None, (0.5, 0.5, 0.75, 1)),
        ("Two cats", None, (0, 0.5, 0.5, 1)),
        ("A dog in a field of flowers", None, (0.1, 0.2, 0.3, 0.4)),
    ]
    assert manifest["rejects"] == {}


def test_smaller_pictures_keep_their_boxes(tmp_path):
    _, samples = prepare(tmp_path, record(), max_side=32)
    (sample,) = samples.values()
    assert max(Image.open(io.BytesIO(sample.image)).size) == 32
    assert (0.5, 0.5, 0.75, 1) in [box for _, _, box in linked(sample)]


def test_tars_and_folders_give_the_same(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", files_of(record(), record(), start=2 * number))
        folder = tmp_path / "files" / f"{number:05d}"
        folder.mkdir(parents=True)
        for name, data in files_of(record(), record(), start=2 * number).items():
            (folder / name).write_bytes(data)
        (tmp_path / "files" / f"{number:05d}_stats.json").write_text("{}")
    sources = [tmp_path, tmp_path / "files", tmp_path / "{0,1}.tar", tmp_path / "*.tar"]
    written = []
    for source in sources:
        out = tmp_path / "out" / source.name
        assert prepare_grit(str(source), PrepareJob(out, samples_per_shard=2))["rejects"] == {}
        written.append([path.read_bytes() for path in sorted(out.glob("*.tar"))])
    assert len(read(tmp_path / "out" / "files")) == 4
    assert len(written[0]) == 2
    assert written == [written[0]] * 4


def test_a_tar_that_is_cut_while_it_is_read(tmp_path):
    write_tar(tmp_path / "a.tar", files_of(*[record()] * 40))
    (source,), names = find_sources(str(tmp_path / "a.tar"), 10)
    assert names[0].startswith(f"a.tar, {(tmp_path / 'a.tar').stat().st_size} bytes, changed at ")
    items = source.items(Rejects())
    first = next(items)
    with (tmp_path / "a.tar").open("r+b") as file:
        file.truncate(tmp_path.joinpath("a.tar").stat().st_size // 2)
    assert first.key == "000000000"
    with pytest.raises(ShardError, match=r"a\.tar cannot be read on"):
        list(items)
    with pytest.raises(ShardError, match=r"a\.tar cannot be read on"):
        prepare_grit(str(tmp_path / "a.tar"), PrepareJob(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.tar*"))


def test_scores_below_the_bound_are_counted(tmp_path):
    manifest, samples = prepare(tmp_path, record(), min_score=0.7)
    assert manifest["rejects"] == {"score below min_score": 1}
    assert len(samples["000000000"].regions) == 3


def test_each_thing_left_out_is_counted(tmp_path, caplog):
    odd = [
        entry(CAPTION, "A dog", 0.3, 0.2, 0.3, 0.4),
        entry(CAPTION, "A dog", 1.1, 0.2, 1.3, 0.4),
        entry(CAPTION, "A dog", 10, 20, 30, 40),
        [0, 99, 0.1, 0.1, 0.2, 0.2, 0.9],
        [9, 5, 0.1, 0.1, 0.3, 0.3, 0.9],
        entry(CAPTION, ". ", 0.1, 0.1, 0.4, 0.4),
    ]
    records = [record(noun_chunks=odd, ref_exps=None), record(noun_chunks=None, ref_exps=[]), record(caption=" -- ")]
    files = files_of(*records, record(caption=None), record(original_width=80, original_height=96), record())
    files["000000005.jpg"] = b"no picture"
    files |= {"000000006.json": json.dumps(record()).encode(), "000000007.json": b"{", "000000007.jpg": picture()}
    files["000000008.jpg"] = picture()
    write_tar(tmp_path / "a.tar", files)
    with caplog.at_level(logging.INFO, "grainclip"):
        manifest = prepare_grit(str(tmp_path / "a.tar"), PrepareJob(tmp_path / "out"), min_score=0.5)
    first, second = read(tmp_path / "out").values()
    assert linked(first) == [(None, None, (0.1, 0.1, s, s)) for s in (0.2, 0.3, 0.4)]
    assert (second.phrases, second.regions) == ((), ())
    boxes = {"box in pixels, not fractions": 1, "box outside the image": 1, "box without area": 1}
    assert manifest["rejects"] == {
        **boxes,
        "box of an image left out": 5 * 5,
        "image missing": 1,
        "image shape differs from its annotation's": 1,
        "image unreadable": 1,
        "json missing": 1,
        "json unreadable": 1,
        "no box": 1,
        "no caption": 2,
        "phrase outside the caption": 2,
        "phrase without words": 1,
    }
    assert "json missing (" in caplog.text
    assert "a.tar, 000000008.json)" in caplog.text


@pytest.mark.parametrize(
    ("caption", "phrases", "mended"),
    [
        ("  The  dog \n and a cat", ["dog", "a cat"], ["dog", "a cat"]),
        ("Tom &amp; Jerry with a dog", ["Tom &amp; Jerry", "a dog"], ["Tom & Jerry", "a dog"]),
        ("The dogâ€™s bone on a mat", ["The dogâ€™s bone", "bone", "a mat"], ["The dog's bone", "bone", "a mat"]),
        ("x\u200b \x00 the ﬁsh, a cat", [" the ﬁsh", "a cat"], ["the fish", "a cat"]),
        ("“A dog” – a cat", ["A dog", "a cat"], ["A dog", "a cat"]),
        ("See Dr. Smith at his desk. A lamp", ["Dr. Smith at his desk", "A lamp"], ["Dr. Smith at his desk", "A lamp"]),
        ("A dog. A cat", ["dog. A cat"], ["dog. A cat"]),
        ("(a) cat", ["(a)", "cat"], ["(a)", "cat"]),
    ],
)
def test_offsets_stay_true_when_captions_are_mended(tmp_path, caption, phrases, mended):
    entries = [entry(caption, phrase, 0.1, 0.1, 0.2, 0.2) for phrase in phrases]
    manifest, samples = prepare(tmp_path, record(caption, noun_chunks=entries, ref_exps=[]))
    assert manifest["rejects"] == {}
    assert [name for name, _, _ in linked(samples["000000000"])] == mended


def test_sentences_without_space_between_stay_apart(tmp_path):
    caption = "It hangs on the wall.The boar is old."
    entries = [entry(caption, phrase, 0.1, 0.1, 0.2, 0.2) for phrase in ("the wall.", "The boar")]
    _, samples = prepare(tmp_path, record(caption, noun_chunks=entries, ref_exps=[]))
    assert samples["000000000"].sentences == ("It hangs on the wall.", "The boar is old.")
    assert [phrase.sentence for phrase in samples["000000000"].phrases] == [0, 1]


def test_a_phrase_that_mending_breaks_is_counted(tmp_path):
    entries = [entry("A &amp; B", "am", 0.1, 0.1, 0.2, 0.2)]
    manifest, samples = prepare(tmp_path, record("A &amp; B", noun_chunks=entries, ref_exps=[]))
    assert manifest["rejects"] == {"phrase lost in mending": 1}
    assert linked(samples["000000000"]) == [(None, None, (0.1, 0.1, 0.2, 0.2))]


def test_every_cut_of_a_caption_is_true_or_counted(tmp_path):
    caption = "A “dog” &amp; 3 cafÃ©s  x"
    spans = list(itertools.combinations(range(len(caption) + 1), 2))
    entries = [[start, end, 0.1, 0.1, 0.2, 0.2, 0.9] for start, end in spans]
    manifest, samples = prepare(tmp_path, record(caption, noun_chunks=entries, ref_exps=[]))
    (sample,) = samples.values()  # ``read`` compares every phrase with its characters
    assert sample.caption == 'A "dog" & 3 cafés x'
    assert {"A", '"dog"', "dog", 'dog" & 3', "3 cafés x", "x", sample.caption} <= {p.text for p in sample.phrases}
    assert 0 < manifest["rejects"]["phrase lost in mending"] < len(spans) / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"noun_chunks": "[[0, 5]]"},
            r"a\.tar, 000000001\.json: 'noun_chunks' must be a list of .* got '\[\[0, 5\]\]'",
        ),
        (
            {"noun_chunks": [[0, 5, 0.1, 0.1, 0.2, 0.2]]},
            r"'noun_chunks\[0\]' must be \[start, end, x0, y0, x1, y1, score",
        ),
        ({"ref_exps": [[0.5, 5, 0.1, 0.1, 0.2, 0.2, 1]]}, r"'ref_exps\[0\]' must be .*whole numbers, got \[0\.5"),
        ({"ref_exps": [[0, 5, 0.1, 0.1, float("nan"), 0.2, 1]]}, r"'ref_exps\[0\]' must be"),
        ({"caption": 3}, r"'caption' must be a text .* got 3"),
        ({"width": 0, "original_width": None}, r"'width' must be a number of pixels above 0, got 0"),
        ({"original_height": "80"}, r"'original_height' must be a number of pixels above 0, got '80'"),
    ],
)
def test_a_wrong_layout_is_named(tmp_path, changes, message):
    write_tar(tmp_path / "a.tar", files_of(record(), record(**changes)))
    with pytest.raises(LayoutError, match=message):
        prepare_grit(str(tmp_path / "a.tar"), PrepareJob(tmp_path / "out"))


def test_chunks_must_have_been_saved(tmp_path):
    fields = record()
    del fields["noun_chunks"]
    write_tar(tmp_path / "a.tar", files_of(fields))
    with pytest.raises(LayoutError, match=r"'noun_chunks' must be .*--save_additional_columns"):
        prepare_grit(str(tmp_path / "a.tar"), PrepareJob(tmp_path / "out"))


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"min_score must lie in \[0, 1\], got 65"):
        prepare_grit(str(tmp_path), PrepareJob(tmp_path / "out"), min_score=65)
    with pytest.raises(ShardError, match="holds neither tars nor images"):
        prepare_grit(str(tmp_path), PrepareJob(tmp_path / "out"))
    with pytest.raises(ShardError, match="does not exist"):
        prepare_grit(str(tmp_path / "none"), PrepareJob(tmp_path / "out"))


def test_the_command_line_can_be_built(tmp_path):
    write_tar(tmp_path / "a.tar", files_of(record()))
    arguments = [f"--data={tmp_path / 'a.tar'}", f"--out={tmp_path / 'out'}", "--min_score=0.65"]
    assert main(["prepare", "grit", *arguments, "--part=1/1"]) == 0
    assert len(read(tmp_path / "out")) == 1
