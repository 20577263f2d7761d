"""Embeddings of a whole data set: in batches, decoded ahead, shared out over ranks, kept in a cache.

Ranks take whole batches in turn, so that the same images always stand in the same batch: the embeddings, and with
them all numbers, are the same bits for any number of ranks. Equal texts are embedded once, so that two images with
the same caption tie exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from eval.data.cache import digest
from eval.data.image_preprocessing import Fit
from eval.data.sources import Source
from eval.interfaces import EvalContext, Model
from eval.metrics.gather import gather_rows, rank, world_size
from eval.metrics.similarity import unit_rows
from eval.protocols.prompts import class_vectors

THREADS = 4  # PIL decodes without holding Python's lock
TEXTS = 8  # times as many texts as images are encoded at once
T = TypeVar("T")


def embed_images(
    model: Model, run: EvalContext, images: Sequence[Source], fit: Fit, label: str
) -> Float[Tensor, "N D"]:
    """Unit vectors of images, on the CPU; ``label`` is what the progress bar says. Collective.

    Raises ValueError for a file that is no image.
    """

    def square(number: int) -> UInt8[Tensor, "3 S S"]:
        return pixels(fit, images[number], model.image_size)

    def compute() -> Float[Tensor, "N D"]:
        batches = in_batches(len(images), run.batch_size)
        mine = run.track(batches[rank() :: world_size()], f"{label}: images")
        rows = [checked_rows(label, model.encode_image(torch.stack(part)).image) for part in ahead(square, mine)]
        return together(rows, batches)

    if run.cache is None:
        return compute()
    data = digest(image.stamp() for image in images)
    what = {"of": f"{len(images)} images", "data": data, "fit": fit_name(fit), "model": model.digest}
    return run.cache.rows(what, len(images), compute)


def embed_texts(model: Model, run: EvalContext, texts: Sequence[str], label: str) -> Float[Tensor, "N D"]:
    """Unit vectors of texts, on the CPU. Collective."""
    unique = list(dict.fromkeys(texts))
    row = {text: i for i, text in enumerate(unique)}

    def compute() -> Float[Tensor, "N D"]:
        batches = in_batches(len(unique), TEXTS * run.batch_size)
        mine = run.track(batches[rank() :: world_size()], f"{label}: texts")
        rows = [checked_rows(label, model.encode_text([unique[i] for i in part])) for part in mine]
        return together(rows, batches)

    if run.cache is None:
        rows = compute()
    else:
        what = {"of": f"{len(unique)} texts", "data": digest(unique), "model": model.digest}
        rows = run.cache.rows(what, len(unique), compute)
    return rows[torch.tensor([row[text] for text in texts], dtype=torch.long)]


def embed_classes(
    model: Model, run: EvalContext, names: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "C D"]:
    """Class vectors (``prompts.class_vectors``), on the CPU. Collective."""

    def compute() -> Float[Tensor, "C D"]:
        return class_vectors(model.encode_text, names, templates, run.track).cpu()

    if run.cache is None:
        return compute()
    data = digest([*names, "", *templates])
    return run.cache.rows({"of": f"{len(names)} classes", "data": data, "model": model.digest}, len(names), compute)


def pixels(fit: Fit, image: Source, side: int) -> UInt8[Tensor, "3 S S"]:
    """The square of an image."""
    return as_pixels(fit(image.open(), side))


def as_pixels(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """An RGB image as a tensor."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def in_batches(count: int, size: int) -> list[range]:
    """The numbers 0 to ``count``, ``size`` at a time."""
    return [range(i, min(i + size, count)) for i in range(0, count, size)]


def ahead(load: Callable[[int], T], batches: Iterable[range]) -> Iterator[list[T]]:
    """``load`` of every number of a batch, while the batch before is worked on."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[list[Callable[[], T]]] = deque()
        try:
            for batch in batches:
                waiting.append([pool.submit(load, number).result for number in batch])
                if len(waiting) > 1:
                    yield [result() for result in waiting.popleft()]
            while waiting:
                yield [result() for result in waiting.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def together(rows: list[Float[Tensor, "_ D"]], batches: list[range]) -> Float[Tensor, "N D"]:
    """The rows of all ranks in the order of the batches. Collective."""
    gathered = gather_rows(rows, torch.float32)
    if gathered is None:
        raise ValueError("there is nothing to embed")
    ranks = world_size()
    order = [number for first in range(ranks) for batch in batches[first::ranks] for number in batch]
    found = torch.empty_like(gathered, device="cpu")
    found[torch.tensor(order, dtype=torch.long)] = gathered.cpu()
    return found


def checked_rows(label: str, rows: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    """``rows`` of unit norm, on the CPU; ValueError where they are none."""
    return unit_rows(f"{label}: embeddings", rows).cpu()


def fit_name(fit: Fit) -> str:
    """As it stands in the key of cached rows."""
    return getattr(fit, "__name__", repr(fit))
