"""Tables as Excel, editors and scripts write them: read alike by `prepare table` and `retrieval:FILE`, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.formats.row_readers import table_rows
from datamodules.prepare import prepare_table
from datamodules.prepare.job import PrepareJob
from eval.benchmarks.retrieval_file import read_table
from eval.interfaces import EvalContext
from lightning_modules.cli.main import main
from tests.datamodules.prepared import read
from tests.helpers.tiny import picture

ROWS = [("1.jpg", "Un café à gauche, l’été."), ("2.jpg", "Zwei grüne Bälle; rot.")]


def quoted(cell: str, delimiter: str) -> str:
    return f'"{cell}"' if delimiter in cell else cell


def text_of(delimiter: str = ",", head: str = "image{}caption\n", ends: str = "\n") -> str:
    lines = [quoted(file, delimiter) + delimiter + quoted(caption, delimiter) for file, caption in ROWS]
    return head.format(delimiter) + "".join(line + ends for line in lines)


def put(folder: Path, text: str, encoding: str = "utf-8", name: str = "t.csv") -> Path:
    for file, _ in ROWS:
        (folder / file).write_bytes(picture(3))
    table = folder / name
    table.write_bytes(text.encode(encoding))
    return table


def captions(folder: Path, table: Path, **options) -> list[str]:
    prepare_table(folder, table, PrepareJob(folder / "out", extractor="rules", overwrite=True), **options)
    return [sample.caption for sample in read(folder / "out").values()]


WANTED = ["Un café à gauche, l'été.", "Zwei grüne Bälle; rot."]  # the apostrophe as captions have it


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_delimiters_and_byte_order_marks(tmp_path, delimiter, encoding, name):
    table = put(tmp_path, text_of(delimiter), encoding, name)
    assert captions(tmp_path, table) == WANTED
    data = read_table(EvalContext(tmp_path), str(table))
    assert data.captions == [[caption] for _, caption in ROWS]


@pytest.mark.parametrize("names", [("file", "text"), ("filename", "caption"), ("path", "description")])
def test_columns_of_other_names(tmp_path, names):
    table = put(tmp_path, text_of(head="{}{{}}{}\n".format(*names)))
    assert captions(tmp_path, table, image_column=names[0], caption_column=names[1]) == WANTED
    assert read_table(EvalContext(tmp_path), str(table)).captions == [[caption] for _, caption in ROWS]


def test_what_excel_and_other_systems_add(tmp_path):
    for text in (
        "sep=;\r\n" + text_of(";", ends="\r\n"),
        text_of(",", head=" image {}caption \n"),
        text_of(",") + ",\n\n",
        text_of(",", ends="\r"),
        "," + text_of(",").replace("\n", "\n0,").removesuffix("0,"),  # pandas' index
    ):
        assert captions(tmp_path, put(tmp_path, text)) == WANTED


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac-roman"])
def test_damaged_letters_are_refused_with_their_line(tmp_path, encoding, capsys):
    ascii_first = text_of(",").replace("’", "'").replace("caption\n", "caption\n1.jpg,A red cube.\n")
    table = put(tmp_path, ascii_first, encoding)
    words = ["prepare", "table", "--images", str(tmp_path), "--annotations", str(table), "--extractor", "rules"]
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err.strip()
    assert "t.csv: line 3 is not utf-8 (byte 0x" in message
    assert "--encoding" in message
    assert len(message.replace(str(tmp_path), "")) <= 200
    assert not (tmp_path / "out").exists()
    assert main([*words, "--out", str(tmp_path / "out"), "--encoding", encoding]) == 0
    assert [sample.caption for sample in read(tmp_path / "out").values()] == ["A red cube.", *WANTED]
    with pytest.raises(ValueError, match="line 3 is not utf-8") as caught:
        read_table(EvalContext(tmp_path), str(table))
    assert "--encoding" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_damaged_letters_in_json(tmp_path, kind):
    rows = [{"image": "1.jpg", "caption": "A cube."}, {"image": "2.jpg", "caption": "un café"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "\n".join(lines) if kind == "jsonl" else "[" + ",\n".join(lines) + "]"
    table = put(tmp_path, text, "latin-1", f"t.{kind}")
    with pytest.raises(ValueError, match=rf"t\.{kind}: line 2 is not utf-8 \(byte 0xe9\)"):
        list(table_rows(table))
    assert [row["caption"] for row in table_rows(table, "latin-1")] == ["A cube.", "un café"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('image,caption\n1.jpg,"A red cube.\n2.jpg,A ball.\n', "is no row of a table: unexpected end of data"),
        ("image,caption\n1.jpg,A cube, red.\n", "line 2 must have as many fields as the head line, 2, got 3"),
        ("image,caption\n1.jpg\n", "line 2 must have as many fields"),
        ("image,caption,caption\n1.jpg,a,b\n", "columns must have names of their own, got 'caption' twice"),
        ("file,caption\n1.jpg,a\n", r"row 0 has no column 'image'; it has file, caption \(--image_column names it\)"),
        (
            "Image,Text\n1.jpg,a\n",
            r"has no column 'image'; it has Image, Text \(--image_column names it; did you mean Image\?",
        ),
        (
            f"1.jpg,{'A dog runs ' * 40}\n2.jpg,A cat.\n",
            r"it has 1\.jpg, A dog runs A dog runs A dog ru \(--image_column",
        ),
        ("image,caption\n../1.jpg,a\n", "must be a path inside the images' folder"),
        ("image,caption\n", "no sample of 't' was left"),
        ("", "no sample of 't' was left"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        captions(tmp_path, put(tmp_path, text))


REPEATED = "image,caption,short\n1.jpg,A red cube,\n1.jpg,A ball .,A ball\n2.jpg,A star. It glows.,s\n1.jpg,A cone,c\n"


def test_rows_of_one_image_are_samples_of_their_own_and_that_is_said(tmp_path, caplog):
    table = put(tmp_path, REPEATED)
    with caplog.at_level("WARNING", "grainclip"):
        assert captions(tmp_path, table) == ["A red cube", "A ball .", "A star. It glows.", "A cone"]
    assert "rows that name the image of an earlier row: 2; each" in caplog.text
    caplog.clear()
    captions(tmp_path, put(tmp_path, text_of()))
    assert "image of an earlier row" not in caplog.text


def test_rows_of_one_image_become_one_sample(tmp_path, caplog):
    table = put(tmp_path, REPEATED)
    joined = captions(tmp_path, table, join_rows=True, summary_column="short")
    assert joined == ["A red cube. A ball . A cone.", "A star. It glows."]  # wherever its rows stand
    first, second = read(tmp_path / "out").values()
    assert first.sentences == ("A red cube.", "A ball .", "A cone.")
    assert second.sentences == ("A star.", "It glows.")
    assert [sample.summary for sample in read(tmp_path / "out").values()] == ["A ball", "s"]
    assert "image of an earlier row" not in caplog.text


@pytest.mark.parametrize("encoding", [None, "utf-8", "UTF8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_letter_whatever_encoding_is_given(tmp_path, encoding):
    assert captions(tmp_path, put(tmp_path, text_of(), "utf-8-sig"), encoding=encoding) == WANTED
    lines = "".join(json.dumps({"image": file, "caption": text}) + "\n" for file, text in ROWS)
    assert captions(tmp_path, put(tmp_path, lines, "utf-8-sig", "t.jsonl"), encoding=encoding) == WANTED


def test_a_space_behind_the_comma_belongs_to_no_cell(tmp_path):
    table = put(tmp_path, 'image, caption\n1.jpg, "Two dogs run, fast. One is brown."\n2.jpg, A cat.\n')
    assert captions(tmp_path, table) == ["Two dogs run, fast. One is brown.", "A cat."]
    assert next(iter(read(tmp_path / "out").values())).sentences == ("Two dogs run, fast.", "One is brown.")


def test_a_split_that_takes_no_image_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"--split val with --val_share 0\.001 takes none of the 2 rows of .*t\.csv"):
        captions(tmp_path, put(tmp_path, text_of()), split="val", val_share=0.001)


def test_train_and_val_share_no_image_and_lose_none(tmp_path):
    files = [f"{number:03}.jpg" for number in range(60)]
    for file in files:
        (tmp_path / file).write_bytes(picture(3))
    rows = [f"{file},A red ball number {number}." for file in files for number in range(2)]

    def keys(lines: list[str], **options) -> list[str]:
        (tmp_path / "t.csv").write_text("image,caption\n" + "\n".join(lines) + "\n")
        job = PrepareJob(tmp_path / "out", extractor="rules", overwrite=True, quiet=True)
        prepare_table(tmp_path, tmp_path / "t.csv", job, join_rows=True, **options)
        return sorted(read(tmp_path / "out"))

    train, val = keys(rows, split="train", val_share=0.25), keys(rows, split="val", val_share=0.25)
    assert sorted(train + val) == [file.removesuffix(".jpg") for file in files]
    assert 8 <= len(val) <= 22
    assert keys(rows[:60], split="val", val_share=0.25) == [key for key in val if key < "030"]  # a longer table adds
    assert set(keys(rows, split="val")) < set(val)  # a smaller share is part of a larger one


@pytest.mark.parametrize("val_share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_lies_between_0_and_1(tmp_path, val_share):
    table = put(tmp_path, text_of())
    with pytest.raises(ValueError, match=r"val_share must be above 0 and below 1, got"):
        captions(tmp_path, table, split="val", val_share=val_share)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("caption", [3, ["a", "b"], {"a": 1}, True])
def test_a_caption_is_a_text(tmp_path, caption):
    table = put(tmp_path, json.dumps([{"image": "1.jpg", "caption": caption}]), name="t.json")
    with pytest.raises(ValueError, match="row 0's 'caption' must be a text, or empty"):
        captions(tmp_path, table)


def test_an_unknown_encoding(tmp_path):
    with pytest.raises(ValueError, match=r"encoding must be one that Python knows, .* got 'utf9'"):
        captions(tmp_path, put(tmp_path, text_of()), encoding="utf9")


def test_a_file_that_is_no_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"t\.parquet is not a Parquet file that can be read"):
        captions(tmp_path, put(tmp_path, text_of(), name="t.parquet"))
