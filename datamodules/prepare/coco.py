"""COCO captions and boxes as shards, or any data set whose files are laid out like COCO's.

An image's captions, five in COCO, are joined into one text whose sentences they are. Phrases are cut by NLTK, and every
box is linked to each phrase whose head noun names its category ("two men" and a box of "person"); which of several
persons a phrase means, COCO does not tell.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track

from datamodules.granularity import extract_phrases
from datamodules.nltk_data import require_nltk_data
from datamodules.prepare.coco_files import CocoBox, CocoImage, ImageId, read_boxes, read_captions
from datamodules.prepare.coco_names import CategoryNames
from datamodules.prepare.rejects import Rejects
from datamodules.prepare.text import as_sentence
from datamodules.sample import Phrase, Region, Sample
from datamodules.shard_writer import require_free, write_shards
from datamodules.tokenizer import Tokenizer

logger = logging.getLogger("grainclip")

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_SAME_SHAPE = 0.02  # how far, relatively, an image's shape may be from its annotation's


def prepare_coco(
    images: Path,
    captions: Path,
    out: Path,
    instances: Path | None = None,
    samples_per_shard: int = 1000,
    overwrite: bool = False,
    skip_missing: bool = False,
) -> dict[str, Any]:
    """Write shards from COCO captions, with COCO instances as regions.

    Args:
        images: the folder of the pictures, where the captions file's `file_name` begins (train2017).
        captions: COCO's captions_*.json.
        out: the folder to write shards and manifest.json to.
        instances: COCO's instances_*.json; without it the samples have no regions.
        samples_per_shard: how many samples a shard holds.
        overwrite: replace the shards that `out` already holds.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest that was written.

    Raises:
        NltkDataError: NLTK's data is missing.
        FileNotFoundError: an annotation file or, without ``skip_missing``, an image is missing.
        FileExistsError: ``out`` holds shards, and ``overwrite`` is off.
        LayoutError: an annotation file is not in COCO's layout.
        ValueError: no image was left to write.
    """
    require_nltk_data()
    require_free(out, overwrite=overwrite)
    listed, texts = read_captions(captions)
    categories, boxes = read_boxes(instances) if instances is not None else ([], {})
    found = [image for image in listed if (images / image.file_name).is_file()]
    if len(found) < len(listed) and not skip_missing:
        raise FileNotFoundError(_missing(images, captions, listed, found))
    reader = _Reader(images, texts, boxes, CategoryNames(categories))
    reader.leave_out(listed, found)
    progress = track(found, "COCO", console=Console(stderr=True), disable=not sys.stderr.isatty())
    manifest = write_shards(
        filter(None, map(reader.sample, progress)),
        out,
        source="coco",
        samples_per_shard=samples_per_shard,
        rejects=reader.rejects,
        overwrite=overwrite,
    )
    reader.report(manifest, out)
    return manifest


def _missing(folder: Path, captions: Path, listed: Sequence[CocoImage], found: Sequence[CocoImage]) -> str:
    there = {image.id for image in found}
    names = [image.file_name for image in listed if image.id not in there]
    return (
        f"{len(names)} of the {len(listed)} images of {captions} are not in {folder}: {', '.join(names[:3])}"
        f"{', ...' if len(names) > 3 else ''}; --images must be the folder in which their file_name begins "
        f"(--skip_missing true leaves them out)"
    )


@dataclass
class _Totals:
    samples: int = 0
    phrases: int = 0
    boxes: int = 0
    linked: int = 0
    tokens: list[int] = field(default_factory=list)  # of the phrases of the first samples


class _Reader:
    """From an image of the captions file to a sample. What is left out is counted in ``rejects``."""

    def __init__(
        self,
        folder: Path,
        texts: dict[ImageId, list[str]],
        boxes: dict[ImageId, list[CocoBox]],
        names: CategoryNames,
    ) -> None:
        self.folder, self.texts, self.boxes, self.names = folder, texts, boxes, names
        self.rejects = Rejects()
        self.totals = _Totals()
        self.tokenizer = Tokenizer()

    def leave_out(self, listed: Sequence[CocoImage], found: Sequence[CocoImage]) -> None:
        """Count the listed images without a file, and the boxes of images that are not listed."""
        there, known = {image.id for image in found}, {image.id for image in listed}
        for image in listed:
            if image.id not in there:
                self._reject(image, "image missing")
        for image_id in self.boxes:
            if image_id not in known:
                self._reject_boxes(image_id)

    def sample(self, image: CocoImage) -> Sample | None:
        """The sample of ``image``; None, and counted, where it has no captions or its file is no good."""
        sentences = [sentence for sentence in map(as_sentence, self.texts.get(image.id, ())) if sentence]
        if not sentences:
            return self._reject(image, "no caption")
        data = (self.folder / image.file_name).read_bytes()
        try:
            with Image.open(io.BytesIO(data)) as picture:
                form, (width, height) = picture.format, picture.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return self._reject(image, "image unreadable")
        if form not in _EXTENSIONS:
            return self._reject(image, f"image format {form}")
        if image.width and image.height:
            if abs(image.width * height / (image.height * width) - 1) > _SAME_SHAPE:
                return self._reject(image, "image shape differs from its annotation's")
            width, height = image.width, image.height
        caption = " ".join(sentences)
        phrases = extract_phrases(caption, sentences)
        regions = self._regions(image, width, height, phrases)
        self._count(phrases)
        return Sample(
            key=_key(image.id),
            image=data,
            caption=caption,
            sentences=tuple(sentences),
            phrases=tuple(phrases),
            regions=tuple(regions),
            source="coco",
            extension=_EXTENSIONS[form],
        )

    def _regions(self, image: CocoImage, width: float, height: float, phrases: Sequence[Phrase]) -> list[Region]:
        """The image's boxes, each once for every phrase that names it, once without where none does."""
        boxes = self.boxes.get(image.id, [])
        naming = self.names.phrases_by_label(phrases, {box.label for box in boxes})
        regions: list[Region] = []
        for box in boxes:
            corners = _corners(box.xywh, width, height)
            if box.crowd:
                self.rejects.add("crowd box", box.id)
            elif corners is None:
                self.rejects.add("box without area", box.id)
            else:
                regions += [Region(corners, phrase, box.label) for phrase in naming[box.label] or [None]]
                self.totals.boxes += 1
                self.totals.linked += bool(naming[box.label])
        return regions

    def _count(self, phrases: Sequence[Phrase]) -> None:
        self.totals.samples += 1
        self.totals.phrases += len(phrases)
        if self.totals.samples <= 1000:
            self.totals.tokens += [self.tokenizer.length(phrase.text) for phrase in phrases]

    def _reject(self, image: CocoImage, reason: str) -> None:
        self.rejects.add(reason, image.file_name)
        self._reject_boxes(image.id)

    def _reject_boxes(self, image_id: ImageId) -> None:
        for box in self.boxes.get(image_id, []):
            self.rejects.add("crowd box" if box.crowd else "box of an image left out", box.id)

    def report(self, manifest: dict[str, Any], out: Path) -> None:
        """Log what was written and what was not."""
        totals = self.totals
        logger.info("%s samples in %s shards of %s", totals.samples, len(manifest["shards"]), out)
        tokens = sum(totals.tokens) / max(len(totals.tokens), 1)
        per_sample = totals.phrases / totals.samples
        logger.info("%.1f phrases a sample, %.1f tokens a phrase (SOT and EOT included)", per_sample, tokens)
        if self.boxes:
            logger.info("%s boxes, %s of them named by a phrase", totals.boxes, totals.linked)
        self.rejects.report()


def _key(image_id: ImageId) -> str:
    """The sample's key: COCO's twelve digits, or the letters and digits of an id that is no number."""
    return f"{image_id:012d}" if isinstance(image_id, int) else re.sub(r"[^\w-]", "_", image_id)


def _corners(
    xywh: tuple[float, float, float, float], width: float, height: float
) -> tuple[float, float, float, float] | None:
    """``x0, y0, x1, y1`` in fractions of the image, cut to it; None where nothing of the box is left."""
    x, y, w, h = xywh
    x0, x1 = (round(min(max(v / width, 0.0), 1.0), 6) for v in (x, x + w))
    y0, y1 = (round(min(max(v / height, 0.0), 1.0), 6) for v in (y, y + h))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
