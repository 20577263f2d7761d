"""A grounded image, whichever release it comes from, as a sample: phrases at their offsets, boxes linked to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from datamodules.granularity import Span
from datamodules.phrases import Found
from datamodules.prepare.boxes import Box
from datamodules.prepare.captions import Caption, phrases_at
from datamodules.prepare.pictures import look_into
from datamodules.prepare.rejects import LeftOut, Rejects
from datamodules.sample import Region, Sample


class Grounded(NamedTuple):
    """An image, its caption, and its boxes with the phrases of the caption that name each.

    ``size`` is its width and height in pixels as annotated, None where they are not known; ``name`` is for reports.
    """

    key: str
    name: str
    image: bytes
    size: tuple[float, float] | None
    caption: Caption
    boxes: Sequence[tuple[Box, Sequence[Span]]]


def grounded_sample(
    image: Grounded, find: Callable[[str], list[Found]], *, source: str, rejects: Rejects
) -> Sample | None:
    """The sample of ``image``; None, and counted, where its file is no good.

    A box stands once for each of its phrases, with the phrase's label; once without phrase or label where it has none.
    A box that is given twice for a phrase stands once. A sample without boxes is counted as "no box". ``find`` gives
    the noun phrases of a text, for the lemmas.
    """
    try:
        picture = look_into(image.image, image.size)
    except LeftOut as left:
        rejects.add_image(left.reason, image.name, len(image.boxes))
        return None
    if not image.boxes:
        rejects.add("no box", image.name)
    caption = image.caption
    phrases = phrases_at(caption, find)
    index = {Span(phrase.start, phrase.end): i for i, phrase in enumerate(phrases)}
    regions: dict[Region, None] = {}
    for box, spans in image.boxes:
        linked = [Region(box, index[span], caption.labels.get(span)) for span in spans]
        regions.update(dict.fromkeys(linked or [Region(box)]))
    return Sample(
        key=image.key,
        image=picture.data,
        caption=caption.text,
        sentences=tuple(caption.text[start:end] for start, end in caption.sentences),
        phrases=tuple(phrases),
        regions=tuple(regions),
        source=source,
        extension=picture.extension,
    )
