"""Grounded captions in MDETR's JSON as shards (Kamath et al., 2021; also GLIP's): Flickr30k and "mixed" grounding.

The file is laid out as COCO's, with a caption in each row of ``images`` and ``tokens_positive`` in each row of
``annotations``: the characters ``[[start, end], ...]`` of the caption that name the box. Each piece is a phrase, and
the box is linked to all of its own. A picture with five captions stands in five rows, and gives five samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.granularity import Span
from datamodules.nltk_data import require_nltk_data
from datamodules.phrases import phrases_of
from datamodules.prepare import layout
from datamodules.prepare.boxes import usable
from datamodules.prepare.captions import tidy_caption
from datamodules.prepare.coco_files import CocoBox, ImageId, as_box, drawn_box
from datamodules.prepare.grounding import Grounded, grounded_sample
from datamodules.prepare.layout import LayoutError, Rule, load_json, rows
from datamodules.prepare.pictures import find_missing, sample_key
from datamodules.prepare.rejects import LeftOut, Rejects
from datamodules.prepare.writing import write_source
from datamodules.sample import Sample
from datamodules.shard_writer import require_free


def prepare_grounded(
    images: Path,
    annotations: Path,
    out: Path,
    samples_per_shard: int = 1000,
    overwrite: bool = False,
    skip_missing: bool = False,
) -> dict[str, Any]:
    """Write shards from grounded captions in MDETR's JSON (final_flickr_separateGT_train.json and the like).

    Args:
        images: the folder of the pictures, where the file's `file_name` begins.
        annotations: the JSON file, with `caption` in its images and `tokens_positive` in its annotations.
        out: the folder to write shards and manifest.json to.
        samples_per_shard: how many samples a shard holds.
        overwrite: replace the shards that `out` already holds.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest that was written.

    Raises:
        NltkDataError: NLTK's data is missing.
        FileNotFoundError: the annotation file or, without ``skip_missing``, an image is missing.
        FileExistsError: ``out`` holds shards, and ``overwrite`` is off.
        LayoutError: the annotation file is not in MDETR's layout.
        ValueError: no image was left to write.
    """
    require_nltk_data()
    require_free(out, overwrite=overwrite)
    listed, boxes = read_grounded(annotations)
    missing = find_missing(images, [image.file_name for image in listed], annotations, skip_missing)
    reader = _Reader(images, boxes)
    reader.leave_out(listed, missing)
    return write_source(
        [image for image in listed if image.file_name not in missing],
        reader.sample,
        out,
        source="grounded",
        rejects=reader.rejects,
        samples_per_shard=samples_per_shard,
        overwrite=overwrite,
    )


class CaptionedImage(NamedTuple):
    """A row of ``images``: a picture, its width and height in pixels, and one caption."""

    id: ImageId
    file_name: str
    size: tuple[float, float]
    caption: str


class NamedBox(NamedTuple):
    """A row of ``annotations``: a box and the characters of the caption that name it."""

    box: CocoBox
    spans: list[Span]


_SPANS = Rule(
    "a list of [start, end], characters of the caption",
    lambda v: isinstance(v, list) and all(isinstance(s, list) and len(s) == 2 and all(map(_is_whole, s)) for s in v),
)
_IMAGE = {
    **{"id": layout.ID, "file_name": layout.PATH, "width": layout.PIXELS, "height": layout.PIXELS},
    "caption": Rule("a text (is this a file of grounded captions?)", layout.CAPTION.holds),
}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_grounded(path: Path) -> tuple[list[CaptionedImage], dict[ImageId, list[NamedBox]]]:
    """The captioned images, and the boxes of each, in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, or a field is missing, of the wrong type, or doubled.
    """
    document = load_json(path)
    images: dict[ImageId, CaptionedImage] = {}
    for row in rows(path, document, "images", _IMAGE):
        image = CaptionedImage(row["id"], row["file_name"], (row["width"], row["height"]), row["caption"])
        if images.setdefault(image.id, image) is not image:
            raise LayoutError(f"{path}: image ids must differ, got {image.id!r} twice in 'images'")
    boxes: dict[ImageId, list[NamedBox]] = {}
    fields = {"image_id": layout.ID, "bbox": layout.XYWH, "tokens_positive": _SPANS}
    for index, row in enumerate(rows(path, document, "annotations", fields)):
        spans = [Span(*pair) for pair in row["tokens_positive"]]
        boxes.setdefault(row["image_id"], []).append(NamedBox(as_box(row, index, None), spans))
    return list(images.values()), boxes


class _Reader:
    """From a row of ``images`` to a sample. What is left out is counted in ``rejects``."""

    def __init__(self, folder: Path, boxes: Mapping[ImageId, list[NamedBox]]) -> None:
        self.folder, self.boxes = folder, boxes
        self.rejects = Rejects()

    def leave_out(self, listed: list[CaptionedImage], missing: set[str]) -> None:
        """Count the listed images without a file, and the boxes of images that are not listed."""
        for image in listed:
            if image.file_name in missing:
                self.rejects.add_image("image missing", image.file_name, len(self.boxes.get(image.id, [])))
        known = {image.id for image in listed}
        for image_id, boxes in self.boxes.items():
            for named in boxes if image_id not in known else ():
                self.rejects.add("box of an image left out", named.box.id)

    def sample(self, image: CaptionedImage) -> Sample | None:
        """The sample of ``image``; None, and counted, where it has no caption or its file is no good."""
        named = self.boxes.get(image.id, [])
        name = f"{image.file_name} ({image.id})"
        spans = [span for _, spans in named for span in spans]
        try:
            caption, moved = tidy_caption(image.caption, spans, self.rejects, name)
        except LeftOut as left:
            return self.rejects.add_image(left.reason, name, len(named))
        boxes = usable(named, lambda n: drawn_box(n.box, image.size), self.rejects, lambda n: n.box.id)
        linked = [(corners, [moved[span] for span in own.spans if span in moved]) for own, corners in boxes]
        data = (self.folder / image.file_name).read_bytes()
        record = Grounded(sample_key(image.id), name, data, image.size, caption, linked)
        return grounded_sample(record, phrases_of, source="grounded", rejects=self.rejects)
