"""Samples to look at: the picture with its boxes, the caption with its phrases marked, as HTML and in a terminal.

Stop-phrases are dotted and grey on the page, dim in the terminal.

What stands in a shard is shown and never trusted: all text is escaped, keys name no file, and a sample that cannot be
used is shown with the reason.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075", "#f032e6")
PAGE_SIDE, TERMINAL_COLUMNS = 640, 48  # pixels, characters


@dataclass(frozen=True)
class Shown:
    """A sample and its small picture, or why it cannot be used."""

    shard: str
    key: str
    sample: Sample | None
    picture: Image.Image | None
    size: tuple[int, int]  # of the upright image in pixels
    problem: str = ""


def look_at(reader: TarReader, numbers: Iterable[int]) -> Iterator[Shown]:
    """The samples ``numbers`` of a source."""
    for number in numbers:
        shard, key = reader.name(number)
        try:
            sample = Sample.from_members(reader.read(number))
            image = open_image(sample.image)
            size = upright_size(image)
            share = min(1.0, PAGE_SIDE / max(size))
            shown = max(1, int(size[0] * share)), max(1, int(size[1] * share))
            draft(image, shown)
            small = as_rgb(image).resize(shown)
        except SampleError as error:
            yield Shown(shard, key, None, None, (0, 0), f"{error.reason}: {error}")
        except UNREADABLE as error:
            yield Shown(shard, key, None, None, (0, 0), f"image: {error}")
        else:
            yield Shown(shard, key, sample, small, size)


def colour_of(phrase: int) -> str:
    """The colour of a phrase and of its boxes."""
    return COLOURS[phrase % len(COLOURS)]


def pieces(
    caption: str, phrases: Sequence[Phrase], stop_phrases: Sequence[Phrase] = ()
) -> Iterator[tuple[str, int | None]]:
    """The caption cut at phrases: text and which phrase it is; stop-phrases have the numbers after those of phrases.

    Of phrases that overlap the first and longest shows.
    """
    end, phrases = 0, [*phrases, *stop_phrases]
    for index in sorted(range(len(phrases)), key=lambda i: (phrases[i].start, -phrases[i].end)):
        phrase = phrases[index]
        if phrase.start >= end:
            yield caption[end : phrase.start], None
            yield phrase.text, index
            end = phrase.end
    yield caption[end:], None


def page(shown: Iterable[Shown], title: str) -> str:
    """A web page that needs no other file."""
    cards = "\n".join(_card(one) for one in shown)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }}
article {{ display: flex; flex-wrap: wrap; gap: 1.5rem; margin: 0 0 2em; border-top: 1px solid #ddd; padding-top: 1em }}
figure {{ position: relative; margin: 0; flex: 0 1 26rem }} figure img {{ width: 100%; display: block }}
figure svg {{ position: absolute; inset: 0; width: 100%; height: 100%; filter: drop-shadow(0 0 1px #000) }}
rect {{ fill: none; stroke-width: 2; vector-effect: non-scaling-stroke }} rect:hover {{ fill: #fff5 }}
.text {{ flex: 1 1 24rem }} .key {{ color: #666; font-size: 13px; overflow-wrap: anywhere }}
mark {{ background: none; border-bottom: 2px solid; color: inherit }}
mark.stop {{ border-bottom: 2px dotted #999; color: #777 }} .problem {{ color: #b00 }}
.legend span {{ margin-right: 1.2rem; display: inline-block }} .legend {{ color: #444; font-size: 14px }}
.legend i {{ display: inline-block; width: .9em; height: .9em; margin-right: .35em; vertical-align: -.1em }}
li {{ margin: 0 }} ol {{ margin: .3rem 0; padding-left: 1.5rem }}
</style>
<h1>{html.escape(title)}</h1>
{_LEGEND}
{cards}
</html>
"""


_LEGEND = (
    '<p class="legend">'
    f'<span><i style="border:2px solid {COLOURS[0]}"></i><mark style="border-color:{COLOURS[0]}">a phrase</mark> and '
    "its box, of one colour</span> "
    '<span><i style="border:2px solid #fff;outline:1px solid #000"></i>a box that no phrase names</span> '
    '<span><mark class="stop">a stop-phrase</mark>, which says nothing of what the image shows</span></p>'
)


def _card(one: Shown) -> str:
    head = f'<div class="key">{html.escape(one.shard)} · {html.escape(one.key)} · {one.size[0]}×{one.size[1]}</div>'
    if one.sample is None or one.picture is None:
        return f'<article><div class="text">{head}<p class="problem">{html.escape(one.problem)}</p></div></article>'
    file = io.BytesIO()
    one.picture.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    boxes = "".join(_rect(region, one.sample) for region in one.sample.regions)
    caption = "".join(_marked(text, index, one.sample) for text, index in _pieces_of(one.sample))
    summary = f"<p><em>{html.escape(one.sample.summary)}</em></p>" if one.sample.summary else ""
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in one.sample.sentences)
    return (
        f'<article><figure><img alt="" src="data:image/jpeg;base64,{data}">'
        f'<svg viewBox="0 0 1 1" preserveAspectRatio="none">{boxes}</svg></figure>'
        f'<div class="text">{head}{summary}<p>{caption}</p><details><summary>{_counts(one.sample)}</summary>'
        f"<ol>{sentences}</ol></details></div></article>"
    )


def _pieces_of(sample: Sample) -> Iterator[tuple[str, int | None]]:
    return pieces(sample.caption, sample.phrases, sample.stop_phrases)


def _marked(text: str, index: int | None, sample: Sample) -> str:
    if index is None:
        return html.escape(text)
    if index >= len(sample.phrases):
        return f'<mark class="stop" title="stop-phrase">{html.escape(text)}</mark>'
    lemma = html.escape(sample.phrases[index].lemma)
    return f'<mark style="border-color:{colour_of(index)}" title="{lemma}">{html.escape(text)}</mark>'


def _counts(sample: Sample) -> str:
    """In words; a region is a box with one of its phrases, so that there may be more regions than boxes."""
    boxes = len({region.box for region in sample.regions})
    numbers = {
        "sentences": len(sample.sentences),
        "phrases": len(sample.phrases),
        **({"stop-phrases": len(sample.stop_phrases)} if sample.stop_phrases else {}),
        "boxes": boxes,
        **({"regions (box × phrase)": len(sample.regions)} if len(sample.regions) != boxes else {}),
    }
    return ", ".join(f"{number} {words}" for words, number in numbers.items())


def _rect(region: Region, sample: Sample) -> str:
    x0, y0, x1, y1 = region.box
    colour = "#ffffff" if region.phrase is None else colour_of(region.phrase)
    return (
        f'<rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" stroke="{colour}">'
        f"<title>{html.escape(_name(region, sample))}</title></rect>"
    )


def _name(region: Region, sample: Sample) -> str:
    phrase = "" if region.phrase is None else sample.phrases[region.phrase].text
    return " · ".join(filter(None, [phrase, region.label]))


def panel(one: Shown) -> RenderableType:
    """A sample for a terminal: the picture in half blocks, the caption with its phrases in the boxes' colours."""
    title = escape(printable(f"{one.key} · {one.size[0]}×{one.size[1]} · {one.shard}"))
    if one.sample is None or one.picture is None:
        return Panel(Text(printable(one.problem), style="red"), title=title)
    caption = Text()
    for text, index in _pieces_of(one.sample):
        caption.append(printable(text), style=_style(index, one.sample))
    tail = Text(_counts(one.sample), style="dim")
    return Panel(Group(_blocks(one.picture, one.sample), Text(), caption, tail), title=title)


def _style(index: int | None, sample: Sample) -> Style:
    if index is None:
        return Style()
    if index >= len(sample.phrases):
        return Style(dim=True, underline=True)
    return Style(color=colour_of(index), underline=True)


def _blocks(picture: Image.Image, sample: Sample) -> Text:
    """The picture, two pixels a character, with its boxes drawn."""
    size = TERMINAL_COLUMNS, max(2, round(TERMINAL_COLUMNS * picture.height / picture.width) // 2 * 2)
    small = picture.resize(size)
    draw = ImageDraw.Draw(small)
    for region in sample.regions:
        x0, y0, x1, y1 = region.box
        corners = [x0 * (size[0] - 1), y0 * (size[1] - 1), x1 * (size[0] - 1), y1 * (size[1] - 1)]
        draw.rectangle(corners, outline="#ffffff" if region.phrase is None else colour_of(region.phrase))
    text = Text()
    pixels = small.tobytes()
    for y in range(0, size[1], 2):
        for x in range(size[0]):
            upper, lower = (pixels[3 * (row * size[0] + x) :][:3].hex() for row in (y, y + 1))
            text.append("▀", Style(color=f"#{upper}", bgcolor=f"#{lower}"))
        text.append("\n")
    return text
