"""A web page in one file, with styles and images inside, without scripts, also for narrow screens.

``page.html`` holds the HTML; Jinja escapes every text that is not ``Markup`` already.
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
    """The HTML of the whole page."""
    return str(_PARTS.whole(title, body))


def image(data: bytes, alt: str, kind: str = "png") -> Markup:
    """An ``img`` element that contains its file; ``kind`` is ``png``, ``jpeg`` or ``svg+xml``."""
    return _PARTS.image(alt, kind, base64.b64encode(data).decode())


def png_of(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def card(image: Markup, caption: str, room: Literal["column", "row"] = "column", whole: bool = False) -> Markup:
    """An image with a caption below, as wide as a column of ``cards``, or in a row of its own.

    A ``whole`` image contains text: on a narrow screen it keeps its size, to stay legible, and scrolls.
    """
    return _PARTS.card(image, caption, f"{room} whole" if whole else room)


def anchor(title: str) -> str:
    """The id of a heading, for links."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def heading(title: str, level: Literal[2, 3] = 2) -> Markup:
    """A heading that ``contents`` can link to."""
    return _PARTS.heading(title, level, anchor(title))


def contents(titles: Iterable[str]) -> Markup:
    """Links to headings."""
    return _PARTS.contents([(title, anchor(title)) for title in titles])


def cards(figures: Iterable[Markup], wide: bool = False) -> Markup:
    """Figures side by side, as many in a row as fit."""
    return _PARTS.cards(figures, wide)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> Markup:
    """A table that scrolls where it is too wide; ``numbers`` aligns all but the first column right.

    Names in the head stay on one line; those in the first column break only after a dot or a slash.
    """
    breaking = ([Markup(re.sub(r"([./])(?=\w)", r"\1<wbr>", str(escape(name)))), *cells] for name, *cells in rows)
    return _PARTS.table(head, breaking, "number" if numbers else "value")
