"""Samples to look at: everything shown, nothing trusted, on a page and in the terminal."""

from __future__ import annotations

import json
import logging
from html.parser import HTMLParser

import pytest

from datamodules.sample import Phrase, Region
from datamodules.shards.viewer import pieces
from lightning_modules.cli.main import main
from tests.helpers.tiny import make_sample, write_shards, write_tar


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.words = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words += data


def test_the_page(tmp_path, capsys):
    write_shards(tmp_path, 6, 2)
    target = tmp_path / "page.html"
    assert main(["inspect", str(tmp_path), "--number", "4", "--html", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    page = Page(target.read_text())
    assert page.tags.count("article") == page.tags.count("img") == page.tags.count("rect") == 4
    assert page.tags.count("mark") == 8 + 2  # and the legend's
    for number in (0, 2, 4, 1):
        assert make_sample(number).caption in page.words
    assert not [v for k, v in page.attributes if k in ("src", "href") and not v.startswith("data:")]


def test_evil_text_stays_text(tmp_path):
    evil = '<script>alert("x")</script>'
    sample = make_sample(
        0, caption=f"{evil}. A cube.", sentences=(evil,), phrases=(Phrase(evil, 0, 0, len(evil), evil),)
    )
    bad = {"__key__": "../<b>", "jpg": b"none", "json": b"{}"}
    write_tar(tmp_path / "a.tar", [sample, bad])
    assert main(["inspect", str(tmp_path), "--html", str(tmp_path / "p.html")]) == 0
    page = Page((tmp_path / "p.html").read_text())
    assert not {"script", "b"} & {*page.tags}
    assert evil in page.words
    assert "../<b>" in page.words
    assert "caption: " in page.words


def test_escape_sequences_never_reach_the_terminal(tmp_path, capsys):
    """A caption that would turn the terminal red, retitle it, or write backwards; in a key, a file's name, a log."""
    evil = "red \x1b[31mcube\x1b]0;owned\x07 \x9b2J \u202eback"
    sample = make_sample(0, caption=f"{evil}.", sentences=(f"{evil}.",), phrases=(Phrase(evil, 0, 0, len(evil), ""),))
    bad = {"__key__": "key\x1b[2J", "jpg": b"none", "json": json.dumps({"caption": "\x1b[5m"}).encode()}
    write_tar(tmp_path / "a.tar", [sample, bad])
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "cube" in shown
    assert not set("\x1b\x07\x9b\u202e") & set(shown)
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "no\x1b[31m.tar")])
    assert "\x1b" not in capsys.readouterr().err
    main(["--version"])  # sets up the log
    handler = next(one for one in logging.getLogger("grainclip").handlers if one.filters)
    record = logging.LogRecord("grainclip", logging.WARNING, "", 0, "left out: %s\n\tnext", ("a\x1b[31m.jpg",), None)
    handler.filter(record)
    assert record.getMessage() == "left out: a[31m.jpg\n\tnext"


def test_what_the_page_and_the_terminal_say_of_boxes(tmp_path, capsys):
    """Two boxes in four regions, a box for each phrase: both numbers are told, and colours are explained."""
    boxes = ((0, 0, 0.5, 0.5), (0.5, 0, 1, 1))
    regions = tuple(Region(box, phrase) for box in boxes for phrase in (0, 1))
    write_tar(tmp_path / "a.tar", [make_sample(0, regions=regions)])
    assert main(["inspect", str(tmp_path)]) == 0
    assert "2 sentences, 2 phrases, 2 boxes, 4 regions (box × phrase)" in " ".join(capsys.readouterr().out.split())
    assert main(["inspect", str(tmp_path), "--html", str(tmp_path / "p.html")]) == 0
    words = " ".join(Page((tmp_path / "p.html").read_text()).words.split())
    assert "2 boxes, 4 regions (box × phrase)" in words
    assert "a box that no phrase names" in words
    assert "a stop-phrase, which says nothing of what the image shows" in words


def test_the_terminal(tmp_path, capsys):
    write_shards(tmp_path, 6, 2)
    assert main(["inspect", str(tmp_path), "--seed", "1", "--number", "2"]) == 0
    assert capsys.readouterr().out.count("2 sentences, 2 phrases, 1 boxes") == 2
    assert main(["inspect", str(tmp_path), "--key", "000005"]) == 0
    shown = capsys.readouterr().out
    assert "000005 · 48×40" in shown
    assert "▀" in shown
    for words, message in [(["--key", "nothing"], "no sample has the key"), (["--number", "0"], "--number")]:
        with pytest.raises(SystemExit):
            main(["inspect", str(tmp_path), *words])
        assert message in capsys.readouterr().err


def test_pieces_make_the_caption():
    caption = "a red cube next to a ball"
    phrases = [
        Phrase("cube next", 0, 6, 15),
        Phrase("a red cube", 0, 0, 10),
        Phrase("a", 0, 0, 1),
        Phrase("ball", 0, 21, 25),
    ]
    parts = list(pieces(caption, phrases))
    assert "".join(text for text, _ in parts) == caption
    assert [index for _, index in parts if index is not None] == [1, 3]
