"""The numbers as a table, as Markdown and as JSON."""

import io
import json

import pytest
from rich.console import Console

from eval import markdown, table, write_json
from eval.report import Section, narrow

NUMBERS = {
    "caption/text_to_image/R@1": 0.5234,
    "caption/text_to_image/chance": 0.002,
    "caption/text_to_image/queries": 512.0,
    "caption/image_to_text/R@1": 0.5,
    "caption/image_to_text/chance": 0.0002,
    "caption/image_to_text/queries": 512.0,
    "hard_negatives/hard/accuracy": 0.25,
    "hard_negatives/hard/chance": 1 / 11,
    "temperature": 0.0123456,
}


def test_rows_with_the_same_columns_share_a_table():
    assert markdown(NUMBERS) == (
        "|  | R@1 | chance | queries |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| caption · text to image | 52.3% | 0.2% | 512 |\n"
        "| caption · image to text | 50.0% | 0.02% | 512 |\n"
        "\n"
        "|  | accuracy | chance |\n"
        "| --- | ---: | ---: |\n"
        "| hard negatives · hard | 25.0% | 9.1% |\n"
        "\n"
        "|  | temperature |\n"
        "| --- | ---: |\n"
        "|  | 0.01235 |\n"
    )


def test_pipes_in_names_do_not_break_the_table():
    assert r"| a\|b | 1 |" in markdown({"a|b/loss": 1.0})


def test_terminal_table_holds_every_number():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(NUMBERS, title="epoch 3"))
    text = console.export_text()
    for piece in ("epoch 3", "caption · text to image", "52.3%", "hard negatives · hard", "9.1%", "512"):
        assert piece in text


def test_json_keeps_fractions_and_settings(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old")
    write_json(path, NUMBERS, {"model": "a", "sizes": [1, 2]})
    assert json.loads(path.read_text()) == {"numbers": NUMBERS, "settings": {"model": "a", "sizes": [1, 2]}}
    assert [p.name for p in tmp_path.iterdir()] == ["numbers.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="caption/R@1 must be finite, got nan"):
        write_json(path, {"caption/R@1": float("nan")}, {})
    with pytest.raises(TypeError):
        write_json(path, NUMBERS, {"model": object()})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_json(tmp_path / "folder", NUMBERS, {})
    (tmp_path / "folder").rmdir()
    assert [p.name for p in tmp_path.iterdir()] == ["numbers.json"]
    assert path.read_text() == "old"


def test_many_columns_make_several_tables_in_the_terminal(capsys):
    from rich.console import Console

    numbers = {f"docci/text_to_image/R@{k}": k / 100 for k in (1, 5, 10, 25, 50)}
    numbers |= {f"docci/text_to_image/{name}": 0.5 for name in ("strict_R@1", "chance", "ties")}
    Console(width=80).print(table(numbers))
    shown = capsys.readouterr().out
    assert shown.count("docci · text to image") == 2
    assert all(f"{k}.0%" in shown for k in (1, 5, 10, 25, 50))
    assert "…" not in shown
    assert markdown(numbers).count("docci") == 1


def test_a_wide_table_is_shown_in_parts_with_every_cell():
    found = narrow(Section(tuple("abcdefgh"), [("one", *"12345678"), ("two", *"ABCDEFGH")]))
    assert found == [
        Section(tuple("abcdef"), [("one", *"123456"), ("two", *"ABCDEF")]),
        Section(tuple("gh"), [("one", *"78"), ("two", *"GH")]),
    ]
