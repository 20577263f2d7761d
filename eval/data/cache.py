"""Embeddings that are computed once: a file per model, data and preparation, found again by the hash of all three.

``FOLDER/HASH.npy`` holds the rows, ``HASH.json`` says in words whose they are. The hash covers the model's weights, the
images' names, sizes and times (or the texts themselves), the fit, and the kind of device. Ranks agree: where one of
them finds no file, all compute. Kept are vectors of images, texts, classes and regions; dense maps, two hundred times
as large, are not, so that pointing and segmentation look at the images anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.atomic_write import atomic_write, write_text
from eval.metrics.gather import gather_names, rank


def digest(parts: Iterable[str]) -> str:
    """SHA-256 of texts, each ended by a zero byte so that they do not run together."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() + b"\0")
    return whole.hexdigest()


class Cache:
    """Rows by what they are of.

    Args:
        folder: made where it is missing; files in it may be deleted at any time.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.found = 0  # how many times rows were there already

    def rows(
        self, what: Mapping[str, str], count: int, compute: Callable[[], Float[Tensor, "N D"]]
    ) -> Float[Tensor, "N D"]:
        """The rows of ``what``, read or computed and kept. Collective.

        Raises ValueError where a kept file is damaged.
        """
        name = digest(f"{key}={value}" for key, value in sorted(what.items()))[:32]
        file = self.folder / f"{name}.npy"
        if not gather_names([] if file.is_file() else ["missing"]):
            self.found += 1
            return _read(file, count)
        rows = compute()
        if rank() == 0:
            write_text(self.folder / f"{name}.json", json.dumps(dict(what), indent=2))
            with atomic_write(file) as draft, draft.open("wb") as out:
                np.save(out, rows.numpy())
        return rows


def _read(file: Path, count: int) -> Float[Tensor, "N D"]:
    try:
        rows = torch.from_numpy(np.load(file))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"the cached embeddings {file} cannot be read: {error}; delete the file") from error
    if rows.ndim != 2 or len(rows) != count:
        raise ValueError(f"the cached embeddings {file} must be {count} rows, got shape {list(rows.shape)}; delete it")
    return rows
