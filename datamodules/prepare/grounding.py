"""A grounded image, whichever release it comes from, as a sample: phrases at their offsets, boxes linked to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from datamodules.granularity.cutting import Span
from datamodules.granularity.extractors import Extractor
from datamodules.prepare.boxes import Box
from datamodules.prepare.captions import CutCaption, phrases_at
from datamodules.prepare.images import Picture
from datamodules.prepare.rejected import Rejects
from datamodules.sample import Region, Sample


class Grounded(NamedTuple):
    """An image, its caption, and its boxes with the phrases of the caption that name each; ``name`` is for reports."""

    key: str
    name: str
    picture: Picture
    caption: CutCaption
    boxes: Sequence[tuple[Box, Sequence[Span]]]


def grounded_sample(image: Grounded, extractor: Extractor | None, *, source: str, rejects: Rejects) -> Sample:
    """The sample of ``image``.

    A box stands once for each of its phrases, with the phrase's label; once without phrase or label where it has none.
    A box that is given twice for a phrase stands once. A sample without boxes is counted as "no box". Without an
    ``extractor`` phrases have no lemmas.
    """
    if not image.boxes:
        rejects.add("no box", image.name)
    caption = image.caption
    phrases = phrases_at(caption, extractor)
    index = {Span(phrase.start, phrase.end): i for i, phrase in enumerate(phrases)}
    regions: dict[Region, None] = {}
    for box, spans in image.boxes:
        linked = [Region(box, index[span], caption.labels.get(span)) for span in spans]
        regions.update(dict.fromkeys(linked or [Region(box)]))
    return Sample(
        key=image.key,
        image=image.picture.data,
        caption=caption.text,
        sentences=tuple(caption.text[start:end] for start, end in caption.sentences),
        phrases=tuple(phrases),
        regions=tuple(regions),
        source=source,
        extension=image.picture.extension,
    )
