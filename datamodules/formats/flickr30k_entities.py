"""Read the files of the Flickr30k Entities release (Plummer et al., 2015), each field checked before it is used.

``Sentences/ID.txt`` has a caption a line, tokenised, its entities in brackets: ``[/EN#176/people A man]``, with several
types where the annotators saw several (``/vehicles/scene``). ``Annotations/ID.xml`` is VOC's: an object names its
chains, entities that the captions share, and has a box, or says that it has none.

Boxes count pixels from 1. As in the release's own reader 1 is taken off all four coordinates.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from datamodules.formats.layout import LayoutError, is_number, require_file, text_lines
from datamodules.formats.tokenised_captions import tokeniser_spaces
from datamodules.granularity.cutting import Span
from datamodules.sample import Box

NOT_VISUAL = "0"  # the chain of every phrase that names nothing to be seen


class Entity(NamedTuple):
    """A bracketed phrase of a line: its characters, its chain, its type or types (``people``, ``vehicles/scene``)."""

    span: Span
    chain: str
    label: str


class Line(NamedTuple):
    """A caption without brackets and the tokeniser's spaces, and the entities in it."""

    text: str
    entities: list[Entity]


class ChainBox(NamedTuple):
    """A box, ``corners`` x0, y0, x1, y1 in pixels from 0, and the chains whose phrases name it."""

    corners: Box
    chains: list[str]


class Objects(NamedTuple):
    """The image's width and height in pixels, and its boxes."""

    size: tuple[float, float]
    boxes: list[ChainBox]


def read_split(path: Path) -> list[str]:
    """The ids of a ``train.txt``, ``val.txt`` or ``test.txt``, one a line.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: a line is no id, or stands twice.
    """
    ids: dict[str, None] = {}
    for number, line in text_lines(path):
        if not re.fullmatch(r"[\w-]+", line):
            raise LayoutError(f"{path}: line {number} must be an image's id, letters and digits, got {line!r:.200}")
        if line in ids:
            raise LayoutError(f"{path}: ids must differ, got {line!r} again in line {number}")
        ids[line] = None
    return list(ids)


def read_sentences(path: Path) -> list[Line]:
    """The captions of a ``Sentences/ID.txt``, without the spaces that the tokeniser put in.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: an entity is not ``[/EN#CHAIN/TYPE words]``.
    """
    return [_line(line, f"{path}: line {number}") for number, line in text_lines(path)]


def read_objects(path: Path) -> Objects:
    """The size and the boxes of an ``Annotations/ID.xml``.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not XML, or a field is missing or of the wrong type.
    """
    require_file(path)
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise LayoutError(f"{path} is not XML: {error}") from error
    sides = [_number(root, f"size/{side}", f"{path}: ") for side in ("width", "height")]
    if min(sides) <= 0:
        raise LayoutError(f"{path}: 'size' must be pixels above 0, got {sides}")
    boxes = []
    for index, item in enumerate(root.findall("object")):
        where = f"{path}: object[{index}]."
        chains = [(name.text or "").strip() for name in item.findall("name")]
        if not chains or not all(chain.isdigit() for chain in chains):
            raise LayoutError(f"{where}'name' must be the number of a chain, got {chains}")
        boxes_of_object = item.findall("bndbox")
        if not boxes_of_object and not any(item.findtext(flag, "").strip() == "1" for flag in ("nobndbox", "scene")):
            raise LayoutError(f"{where}'bndbox' must be there where neither 'nobndbox' nor 'scene' is 1, got none")
        for box in boxes_of_object:
            x0, y0, x1, y1 = (_number(box, side, f"{where}bndbox.") - 1 for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append(ChainBox((x0, y0, x1, y1), chains))
    return Objects((sides[0], sides[1]), boxes)


def _number(element: ElementTree.Element, field: str, where: str) -> float:
    value = element.findtext(field)
    if value is None or not re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", value):
        raise LayoutError(f"{where}'{field}' must be a number of pixels, got {value!r}")
    number = float(value)
    if not is_number(number):
        raise LayoutError(f"{where}'{field}' must be a number of pixels, got {value:.80}")
    return number


_ENTITY = re.compile(r"\[/EN#(\d+)/([^\s\[\]/]+(?:/[^\s\[\]/]+)*)\s([^\[\]]*)\]")


def _line(line: str, where: str) -> Line:
    entities: list[Entity] = []
    text, last = "", 0
    for match in _ENTITY.finditer(line):
        text += line[last : match.start()]
        entities.append(Entity(Span(len(text), len(text) + len(match[3])), match[1], match[2]))
        text += match[3]
        last = match.end()
    text += line[last:]
    if "/EN#" in text:
        raise LayoutError(f"{where} must mark entities as [/EN#CHAIN/TYPE words], got {line!r:.300}")
    spaces = tokeniser_spaces(text)
    moved = [
        entity._replace(span=Span(*(index - bisect_left(spaces, index) for index in entity.span)))  # by removed spaces
        for entity in entities
    ]
    return Line("".join(c for index, c in enumerate(text) if index not in spaces), moved)
