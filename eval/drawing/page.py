"""A web page in one file: style and pictures are inside, no script is needed, narrow screens are served too."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from PIL import Image

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 76rem; padding: 0 1rem; color: #1b1b1b;
  background: #fff; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25 } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem } p { margin: .4rem 0 }
h3 { font-size: 1rem; margin: 1.3rem 0 .5rem }
.contents { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .8rem 0; padding: .5rem 0;
  border: solid #ddd; border-width: 1px 0; font-size: .92rem }
.contents a { color: #0072b2; text-decoration: none }
.note { color: #555; font-size: .9rem }
.cards { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)) }
.cards.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)) }
figure.row { grid-column: 1 / -1 }
figure { margin: 0 } figure img { width: 100%; height: auto; display: block }
figure.row img { width: auto; max-width: 100% }
figure.whole { overflow-x: auto } figure.whole img { width: auto; max-width: 100% }
@media (max-width: 40rem) { figure.whole img { max-width: none } }
figcaption { margin-top: .35rem; font-size: .92rem }
.table { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top }
th.number, td.number { text-align: right } td.number { white-space: nowrap }
th, td, td.number { overflow-wrap: normal } th { white-space: nowrap } td:first-child { min-width: 8.5rem }
td.value { overflow-wrap: anywhere; min-width: 7rem; max-width: 26rem }
.scale { max-width: 22rem; margin: .8rem 0 } .scale img { width: 100%; height: 12px; display: block }
.scale div { display: flex; justify-content: space-between; font-size: .85rem }
""".strip()


def page(title: str, body: str) -> str:
    """The whole file; ``body`` is HTML, ``title`` a plain text."""
    name = html.escape(title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{name}</title>
<style>
{STYLE}
</style>
</head>
<body>
<h1>{name}</h1>
{body}
</body>
</html>
"""


def image(data: bytes, alt: str, kind: str = "png") -> str:
    """An ``img`` that holds its file; ``kind`` is ``png``, ``jpeg`` or ``svg+xml``."""
    inside = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{inside}">'


def png_of(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def card(picture: str, words: str, room: Literal["column", "row"] = "column", whole: bool = False) -> str:
    """An image with words below, both HTML; it is as wide as a column of ``cards``, or has a row for itself.

    A ``whole`` one has words of its own inside: on a narrow screen it keeps its size, so that they can be read, and
    scrolls.
    """
    return f'<figure class="{room}{" whole" if whole else ""}">{picture}<figcaption>{words}</figcaption></figure>'


def anchor(title: str) -> str:
    """The name by which a heading is linked to."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def heading(title: str, level: Literal[2, 3] = 2) -> str:
    """A heading that ``contents`` can link to; ``title`` is a plain text."""
    return f'<h{level} id="{anchor(title)}">{html.escape(title)}</h{level}>'


def contents(titles: Iterable[str]) -> str:
    """Links to headings."""
    links = "\n".join(f'<a href="#{anchor(title)}">{html.escape(title)}</a>' for title in titles)
    return f'<nav class="contents">\n{links}\n</nav>'


def cards(figures: Iterable[str], wide: bool = False) -> str:
    """Figures side by side, as many as there is room for."""
    inside = "\n".join(figures)
    return f'<div class="cards{" wide" if wide else ""}">\n{inside}\n</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """Plain texts as a table that scrolls where it is too wide; ``numbers`` puts all but the first column right.

    Names in the head stay in one line, those in the first column break after a dot or a slash only.
    """
    kind = "number" if numbers else "value"

    def row(cells: Sequence[str], tag: str) -> str:
        first, *rest = (html.escape(cell) for cell in cells)
        others = "".join(f'<{tag} class="{kind}">{cell}</{tag}>' for cell in rest)
        name = re.sub(r"([./])(?=\w)", r"\1<wbr>", first) if tag == "td" else first
        return f"<tr><{tag}>{name}</{tag}>{others}</tr>"

    inside = "\n".join(row(cells, "td") for cells in rows)
    return f'<div class="table"><table>\n{row(head, "th")}\n{inside}\n</table></div>'
