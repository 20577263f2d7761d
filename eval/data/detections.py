"""A detector's boxes as ALBEF releases them: ``dets.json``, a list of x, y, width, height for each image's id."""

from __future__ import annotations

from pathlib import Path

from datamodules.formats.layout import XYWH
from eval.data.records import read_json
from eval.data.sources import Xywh


def read_detections(path: Path) -> tuple[dict[str, list[Xywh]], str]:
    """The boxes by the images' ids, and the file's SHA-256.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a box is not four numbers.
    """
    document, checksum = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: the JSON must be an object, got {type(document).__name__}")
    detections: dict[str, list[Xywh]] = {}
    for number, boxes in document.items():
        for box in boxes if isinstance(boxes, list) else [boxes]:
            if not isinstance(box, list) or not XYWH.holds(box[:4]):
                raise ValueError(f"{path}: '{number}' must be a list of {XYWH.words}, got {box!r:.80}")
            detections.setdefault(number, []).append((box[0], box[1], box[2], box[3]))
    return detections, checksum
