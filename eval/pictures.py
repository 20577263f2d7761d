"""Photographs of a benchmark: all there before the work begins, and squashed to the model's square.

The whole picture is squashed, aspect ratio not kept, so that every box stays in it (FG-CLIP, FineCLIP). Decoding is at
full resolution: the shortcuts of training would change the published protocol's pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

THREADS = 4  # PIL decodes without holding Python's lock


class Photograph(NamedTuple):
    """A file and the size in pixels that its annotation tells."""

    file: Path
    width: int
    height: int


T = TypeVar("T")


def present(listed: Sequence[tuple[Path, T]], source: Path, skip_missing: bool, counts: Counter[str]) -> list[T]:
    """The items whose file is there; the others are counted as "picture missing".

    Raises FileNotFoundError, naming ``source`` (the annotation file), where any is missing and that is not allowed.
    """
    missing = [file for file, _ in listed if not file.is_file()]
    if missing and not skip_missing:
        names = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"{len(missing)} of the {len(listed)} files of {source} are missing: {names} "
            "(--skip_missing leaves their pictures out, and counts them)"
        )
    if missing:
        counts["picture missing"] += len(missing)
    gone = set(missing)
    return [item for file, item in listed if file not in gone]


def squares(photographs: Sequence[Photograph], side: int, filter: Image.Resampling) -> UInt8[Tensor, "B 3 S S"]:
    """RGB pixels of the whole pictures, squashed to ``side``.

    Raises ValueError for a file that is no picture or has another size than its annotation says.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return torch.stack(list(pool.map(lambda p: _square(p, side, filter), photographs)))


def _square(photograph: Photograph, side: int, filter: Image.Resampling) -> UInt8[Tensor, "3 S S"]:
    file, size = photograph.file, (photograph.width, photograph.height)
    try:
        with Image.open(file) as image:
            if image.size != size:
                found = f"{image.size[0]}×{image.size[1]}"
                raise ValueError(f"{file} must have {size[0]}×{size[1]} pixels, as its annotation says, got {found}")
            pixels = np.array(image.convert("RGB").resize((side, side), filter))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is not a picture that can be read: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
