"""A cache of embeddings: a file for each model, data and preparation, named by the hash of all three.

``FOLDER/HASH.npy`` holds the rows, ``HASH.json`` describes them. The hash covers the model's weights, the images'
names, sizes and times (or the texts themselves), the fit, and the kind of device. Where one rank lacks the file, all
ranks compute. Vectors of images, texts, classes and regions are stored; dense maps, two hundred times as large, are
not, so that pointing and segmentation encode the images again.
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
    """SHA-256 of texts, each closed by a zero byte, so that their boundaries count."""
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part.encode() + b"\0")
    return checksum.hexdigest()


class Cache:
    """Rows of embeddings by key.

    Args:
        folder: created where it is missing; its files may be deleted at any time.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.hits = 0  # how many times rows were read

    def rows(
        self, key: Mapping[str, str], count: int, compute: Callable[[], Float[Tensor, "N D"]]
    ) -> Float[Tensor, "N D"]:
        """The ``count`` rows of ``key``, read, or computed and stored. Collective.

        Raises ValueError where a stored file is damaged.
        """
        name = digest(f"{field}={value}" for field, value in sorted(key.items()))[:32]
        file = self.folder / f"{name}.npy"
        if not gather_names([] if file.is_file() else ["missing"]):
            self.hits += 1
            return _read(file, count)
        rows = compute()
        if rank() == 0:
            write_text(self.folder / f"{name}.json", json.dumps(dict(key), indent=2))
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
