"""A web page in one file: style and images are inside, no script is needed, narrow screens are served too.

``page.html`` holds the HTML, Jinja escapes every text that is not ``Markup`` already.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment
from markupsafe import Markup, escape
from PIL import Image

_TEMPLATE = Path(__file__).with_name("page.html").read_text("utf-8")
_PARTS: Any = Environment(autoescape=True).from_string(_TEMPLATE).module  # its macros


def page(title: str, body: Markup) -> str:
    """The whole file."""
    return str(_PARTS.whole(title, body))


def image(data: bytes, alt: str, kind: str = "png") -> Markup:
    """An ``img`` that holds its file; ``kind`` is ``png``, ``jpeg`` or ``svg+xml``."""
    return _PARTS.image(alt, kind, base64.b64encode(data).decode())


def png_of(drawn: Image.Image) -> bytes:
    """An image as a PNG file."""
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()


def card(drawn: Markup, caption: str, room: Literal["column", "row"] = "column", whole: bool = False) -> Markup:
    """An image with a caption below; it is as wide as a column of ``cards``, or has a row for itself.

    A ``whole`` one has words of its own inside: on a narrow screen it keeps its size, so that they can be read, and
    scrolls.
    """
    return _PARTS.card(drawn, caption, f"{room} whole" if whole else room)


def anchor(title: str) -> str:
    """The name by which a heading is linked to."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def heading(title: str, level: Literal[2, 3] = 2) -> Markup:
    """A heading that ``contents`` can link to."""
    return _PARTS.heading(title, level, anchor(title))


def contents(titles: Iterable[str]) -> Markup:
    """Links to headings."""
    return _PARTS.contents([(title, anchor(title)) for title in titles])


def cards(figures: Iterable[Markup], wide: bool = False) -> Markup:
    """Figures side by side, as many as there is room for."""
    return _PARTS.cards(figures, wide)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> Markup:
    """A table that scrolls where it is too wide; ``numbers`` puts all but the first column right.

    Names in the head stay in one line, those in the first column break after a dot or a slash only.
    """
    breaking = ([Markup(re.sub(r"([./])(?=\w)", r"\1<wbr>", str(escape(name)))), *cells] for name, *cells in rows)
    return _PARTS.table(head, breaking, "number" if numbers else "value")
