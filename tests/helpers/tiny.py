"""Small things that many tests need: images, samples and shards made on the spot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from datamodules.sample import Phrase, Region, Sample

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "pink", "brown")
THINGS = ("cube", "ball", "star", "ring", "cone", "tree", "boat", "lamp")


def picture(seed: int = 0, width: int = 48, height: int = 40, format: str = "JPEG") -> bytes:
    """An encoded image of smooth noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, format, quality=90)
    return file.getvalue()


TURNS = tuple(range(1, 9))  # EXIF orientations
_AWAY = {  # from upright pixels to those that a file of each orientation stores
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned_away(upright: Image.Image, turn: int, form: str = "JPEG") -> bytes:
    """An encoded image that shows ``upright`` to whoever honours its EXIF orientation ``turn``."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    stored = upright.transpose(_AWAY[turn]) if turn in _AWAY else upright
    file = io.BytesIO()
    stored.save(file, form, exif=exif, quality=95)
    return file.getvalue()


def make_sample(number: int, **changes: Any) -> Sample:
    """A valid sample with two sentences, two phrases and one box; no two numbers below 64 share their text."""
    first = f"A {COLOURS[number % 8]} {THINGS[number // 8 % 8]} number {number} lies here"
    second = f"It is beside a {COLOURS[(number * 3 + 1) % 8]} {THINGS[(number * 5 + 2) % 8]}"
    caption = f"{first}. {second}."
    phrase = " ".join(first.split()[:3])
    other = " ".join(second.split()[3:])
    start = caption.index(other, len(first))
    fields: dict[str, Any] = {
        "key": f"{number:06d}",
        "image": picture(number),
        "caption": caption,
        "sentences": (first + ".", second + "."),
        "phrases": (
            Phrase(phrase, 0, 0, len(phrase), phrase.split()[-1]),
            Phrase(other, 1, start, start + len(other), other.split()[-1]),
        ),
        "regions": (Region((0.1, 0.2, 0.6, 0.9), 0, phrase.split()[-1]),),
        "source": "test",
    }
    return Sample(**(fields | changes))


def write_tar(path: Path, samples: Iterable[Sample | Mapping[str, Any]]) -> Path:
    """A tar of samples, or of raw members ``{"__key__": ..., "jpg": bytes, "json": bytes}`` as they are."""
    with tarfile.open(path, "w") as tar:
        for sample in samples:
            members = dict(sample.members() if isinstance(sample, Sample) else sample)
            key = members.pop("__key__")
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, count: int, shards: int = 2) -> list[Path]:
    """``count`` samples spread over ``shards`` tars."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(count)
    return [
        write_tar(folder / f"train-{i:03d}.tar", (make_sample(n) for n in numbers[i::shards])) for i in range(shards)
    ]
