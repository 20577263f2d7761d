"""Embeddings of a snapshot to explore: images as themselves, texts as tiles in the colour of their grain."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.colors import to_rgb
from PIL import Image
from torch import Tensor

from eval.drawing.canvas import COLOURS
from lightning_modules.boards.board import EmbeddingTable
from lightning_modules.boards.images import embeddings
from lightning_modules.boards.snapshot import Snapshot

SIDE = 32  # pixels of a tile
HEAD = ["modality", "grain", "text or key"]


def embedding_table(snapshot: Snapshot) -> EmbeddingTable:
    """All images and texts of the batch."""
    groups = embeddings(snapshot)
    rows, tiles = [], []
    for number, (grain, (_, names)) in enumerate(groups.items()):
        modality = "image" if grain == "image" else "text"
        rows += [[modality, grain, " ".join(name.split())] for name in names]
        tiles.append(_thumbnails(snapshot) if modality == "image" else _tiles(COLOURS[number], len(names)))
    vectors = torch.cat([vectors for vectors, _ in groups.values()]).cpu()
    return EmbeddingTable(vectors, HEAD, rows, torch.cat(tiles))


def _thumbnails(snapshot: Snapshot) -> Float[Tensor, "B 3 S S"]:
    small = [
        np.array(snapshot.pil_image(b).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        for b in range(len(snapshot.images.image))
    ]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255


def _tiles(colour: str, count: int) -> Float[Tensor, "N 3 S S"]:
    """A disc of that colour on white."""
    at = torch.linspace(-1, 1, SIDE)
    disc = at[:, None].square() + at[None, :].square() < 0.55
    tile = torch.where(disc, torch.tensor(to_rgb(colour))[:, None, None], 1.0)
    return tile.expand(count, -1, -1, -1)
