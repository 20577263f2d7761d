"""Views of samples: the image with its boxes, the caption with its phrases marked, as HTML and in a terminal.

Stop-phrases are dotted and grey on the page, dim in the terminal.

A shard's content is not trusted: Jinja escapes all text, keys name no file, and a sample that cannot be used is shown
with the reason.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from PIL import Image, ImageDraw
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.style import Style
from rich.text import Text

from datamodules.image_decoding import UNREADABLE, as_rgb, draft, open_image, upright_size
from datamodules.sample import Phrase, Region, Sample, SampleError
from datamodules.shards.reader import TarReader
from datamodules.terminal_text import printable

TEMPLATE = Path(__file__).with_name("viewer.html")
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075", "#f032e6")
PAGE_SIDE, TERMINAL_COLUMNS = 640, 48  # pixels, characters


@dataclass(frozen=True)
class SampleView:
    """A sample and its small image, or the ``problem`` for which it cannot be used."""

    shard: str
    key: str
    sample: Sample | None
    image: Image.Image | None
    size: tuple[int, int]  # of the upright image in pixels
    problem: str = ""


def view_samples(reader: TarReader, numbers: Iterable[int]) -> Iterator[SampleView]:
    """The views of the samples ``numbers`` of a source."""
    for number in numbers:
        shard, key = reader.name(number)
        try:
            sample = Sample.from_members(reader.read(number))
            image = open_image(sample.image)
            size = upright_size(image)
            scale = min(1.0, PAGE_SIDE / max(size))
            small_size = max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
            draft(image, small_size)
            small = as_rgb(image).resize(small_size)
        except SampleError as error:
            yield SampleView(shard, key, None, None, (0, 0), f"{error.reason}: {error}")
        except UNREADABLE as error:
            yield SampleView(shard, key, None, None, (0, 0), f"image: {error}")
        else:
            yield SampleView(shard, key, sample, small, size)


def colour_of(phrase: int | None) -> str:
    """The colour of a phrase and of its boxes; white for a box that no phrase names."""
    return "#ffffff" if phrase is None else COLOURS[phrase % len(COLOURS)]


def pieces(
    caption: str, phrases: Sequence[Phrase], stop_phrases: Sequence[Phrase] = ()
) -> Iterator[tuple[str, int | None]]:
    """The caption cut at phrases: each text with its phrase's index, None between phrases.

    Stop-phrases are numbered after the phrases. Of phrases that overlap the first and longest is kept.
    """
    end, phrases = 0, [*phrases, *stop_phrases]
    for index in sorted(range(len(phrases)), key=lambda i: (phrases[i].start, -phrases[i].end)):
        phrase = phrases[index]
        if phrase.start >= end:
            yield caption[end : phrase.start], None
            yield phrase.text, index
            end = phrase.end
    yield caption[end:], None


def page(views: Iterable[SampleView], title: str) -> str:
    """A web page of the samples that needs no other file."""
    pages = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    helpers = {"colour_of": colour_of, "counts": _counts, "jpeg": _jpeg, "name_of": _name, "pieces": pieces}
    return pages.from_string(TEMPLATE.read_text("utf-8")).render(views=views, title=title, **helpers)


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


def _pieces_of(sample: Sample) -> Iterator[tuple[str, int | None]]:
    return pieces(sample.caption, sample.phrases, sample.stop_phrases)


def _counts(sample: Sample) -> str:
    """The sample's numbers in words; a region is a box with one of its phrases, so there may be more than boxes."""
    boxes = len({region.box for region in sample.regions})
    numbers = {
        "sentences": len(sample.sentences),
        "phrases": len(sample.phrases),
        **({"stop-phrases": len(sample.stop_phrases)} if sample.stop_phrases else {}),
        "boxes": boxes,
        **({"regions (box × phrase)": len(sample.regions)} if len(sample.regions) != boxes else {}),
    }
    return ", ".join(f"{number} {words}" for words, number in numbers.items())


def _name(region: Region, sample: Sample) -> str:
    phrase = "" if region.phrase is None else sample.phrases[region.phrase].text
    return " · ".join(filter(None, [phrase, region.label]))


def panel(view: SampleView) -> RenderableType:
    """A sample for a terminal: the image in half blocks, the caption with its phrases in the boxes' colours."""
    title = escape(printable(f"{view.key} · {view.size[0]}×{view.size[1]} · {view.shard}"))
    if view.sample is None or view.image is None:
        return Panel(Text(printable(view.problem), style="red"), title=title)
    caption = Text()
    for text, index in _pieces_of(view.sample):
        caption.append(printable(text), style=_style(index, view.sample))
    tail = Text(_counts(view.sample), style="dim")
    return Panel(Group(_blocks(view.image, view.sample), Text(), caption, tail), title=title)


def _style(index: int | None, sample: Sample) -> Style:
    if index is None:
        return Style()
    if index >= len(sample.phrases):
        return Style(dim=True, underline=True)
    return Style(color=colour_of(index), underline=True)


def _blocks(image: Image.Image, sample: Sample) -> Text:
    """The image, two pixels a character, with its boxes drawn."""
    size = TERMINAL_COLUMNS, max(2, round(TERMINAL_COLUMNS * image.height / image.width) // 2 * 2)
    small = image.resize(size)
    draw = ImageDraw.Draw(small)
    for region in sample.regions:
        x0, y0, x1, y1 = region.box
        corners = [x0 * (size[0] - 1), y0 * (size[1] - 1), x1 * (size[0] - 1), y1 * (size[1] - 1)]
        draw.rectangle(corners, outline=colour_of(region.phrase))
    text = Text()
    pixels = small.tobytes()
    for y in range(0, size[1], 2):
        for x in range(size[0]):
            upper, lower = (pixels[3 * (row * size[0] + x) :][:3].hex() for row in (y, y + 1))
            text.append("▀", Style(color=f"#{upper}", bgcolor=f"#{lower}"))
        text.append("\n")
    return text
