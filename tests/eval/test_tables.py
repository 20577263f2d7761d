"""The numbers as a table, as Markdown and as JSON."""

import io
import json

import pytest
from rich.console import Console

from eval import markdown, table, write_json
from eval.results.tables import Section, _split, narrow

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


WIDE = {
    f"{data}/text_to_image/{name}": share
    for data in ("docci", "a_benchmark_with_a_name_that_is_long/and_a_part_of_it")
    for name, share in [*((f"R@{k}", k / 100) for k in (1, 5, 10, 25, 50)), ("strict_R@1", 0.5),
                        ("median_rank", 12345.0), ("mean_rank_of_11", 3.25), ("chance", 0.5), ("ties", 0.0),
                        ("queries", 100000.0)]
}  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 130, 200])
def test_tables_fit_the_terminal_and_lose_nothing(width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(WIDE, title="a model"))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert all(line[-1] in "┓┃┩┡│┘" for line in lines if line[0] in "┏┃┡│└")  # the frame's right side is there
    shown = " ".join("".join(cell if cell.isprintable() else " " for cell in "\n".join(lines)).split())
    for piece in (*(f"R@{k} " for k in (1, 5, 10, 25, 50)), "strict R@1", "median rank", "mean rank of 11", "chance",
                  "ties", "queries", "1.234e+04", "100000", "3.25", "50.0%", "docci · text to image"):  # fmt: skip
        assert piece in shown, piece
    assert "…" not in shown
    assert [line.strip() for line in lines].count("a model") == 1
    tables = sum(line.startswith("┏") for line in lines)
    assert (tables == 1) == (width == 200)


def test_a_table_may_fill_all_its_room():
    assert _split([4, 3, 3, 4], 7) == [range(2), range(2, 4)]
    assert _split([9, 3], 7) == [range(1), range(1, 2)]


def test_as_few_tables_as_fit():
    whole = Section(tuple("abcdefgh"), [("one", *"12345678"), ("two", *"ABCDEFGH")])
    assert narrow(whole, 200) == [whole]
    assert narrow(whole, 4 + 3 + 6 * 4) == [
        Section(tuple("abcd"), [("one", *"1234"), ("two", *"ABCD")]),  # not six and two
        Section(tuple("efgh"), [("one", *"5678"), ("two", *"EFGH")]),
    ]
    assert [part.columns for part in narrow(whole, 1)] == [(letter,) for letter in "abcdefgh"]
