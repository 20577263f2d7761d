"""ShareGPT4V's file (Chen et al., 2023): a JSON array of 1.2 million conversations, 1.5 GB, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.formats.layout import PATH, LayoutError
from datamodules.formats.row_readers import json_array


class CaptionedImage(NamedTuple):
    """An image's path, which begins with its source (coco/, llava/, sam/), and its caption."""

    file: str
    caption: str


def read_sharegpt4v(path: Path) -> Iterator[CaptionedImage]:
    """The images in the file's order; a caption is the first answer of 'gpt'. Raises FileNotFoundError, LayoutError."""
    for number, row in enumerate(json_array(path)):
        where, turns = f"{path}: row {number}'s", row.get("conversations")
        PATH.check(f"{where} 'image'", row.get("image"))
        messages = turns if isinstance(turns, list) else []
        answers = [turn.get("value") for turn in messages if isinstance(turn, dict) and turn.get("from") == "gpt"]
        if not answers or not isinstance(answers[0], str):
            raise LayoutError(f"{where} 'conversations' must hold an answer of 'gpt', got {turns!r:.80}")
        yield CaptionedImage(row["image"], answers[0])
