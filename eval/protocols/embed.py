"""Embeddings of a whole data set: in batches, with images decoded ahead, divided among ranks, and cached.

Ranks take whole batches in turn, so a batch always holds the same images: embeddings, and with them all numbers, are
equal to the bit for any number of ranks. Equal texts are embedded once, so that two images with the same caption tie
exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from datamodules.reading.ranks import rank_count
from eval.data.cache import digest
from eval.data.image_preprocessing import Fit, fit_name
from eval.data.sources import ImageSource
from eval.interfaces import EvalContext, ImageEmbeddings, Model
from eval.metrics.gather import gather_rows, rank_share
from eval.metrics.similarity import unit_rows
from eval.protocols.prompts import class_vectors

THREADS = 4  # PIL decodes without holding Python's lock
TEXTS = 8  # size of a batch of texts, in batches of images
T = TypeVar("T")


def embed_images(
    model: Model, run: EvalContext, images: Sequence[ImageSource], fit: Fit, label: str
) -> Float[Tensor, "N D"]:
    """Unit vectors of images, on the CPU; ``label`` stands in the progress bar. Collective.

    Raises ValueError for a file that is not an image.
    """

    def square(number: int) -> UInt8[Tensor, "3 S S"]:
        return pixels(fit, images[number], model.image_size)

    def compute() -> Float[Tensor, "N D"]:
        batches = batch_ranges(len(images), run.batch_size)
        loaded = load_batches(square, batches, run, f"{label}: images")
        rows = [checked_rows(label, model.encode_image(torch.stack(squares)).image) for _, squares in loaded]
        return gather_batches(rows, batches)

    stamps = (image.stamp() for image in images)
    return cached_rows(model, run, "images", len(images), stamps, compute, fit=fit_name(fit))


def patches_of(features: ImageEmbeddings) -> Float[Tensor, "B D h w"]:
    """The dense features of images. Raises ValueError where the model has none."""
    if features.dense.shape[2] == 0:
        raise ValueError("this needs patch features, and the image tower of --model gives none")
    return features.dense


def embed_texts(model: Model, run: EvalContext, texts: Sequence[str], label: str) -> Float[Tensor, "N D"]:
    """Unit vectors of texts, on the CPU. Collective."""
    unique = list(dict.fromkeys(texts))
    row = {text: i for i, text in enumerate(unique)}

    def compute() -> Float[Tensor, "N D"]:
        batches = batch_ranges(len(unique), TEXTS * run.batch_size)
        share = run.track(rank_share(batches), f"{label}: texts")
        rows = [checked_rows(label, model.encode_text(unique[batch.start : batch.stop])) for batch in share]
        return gather_batches(rows, batches)

    rows = cached_rows(model, run, "texts", len(unique), unique, compute)
    return rows[torch.tensor([row[text] for text in texts], dtype=torch.long)]


def embed_classes(
    model: Model, run: EvalContext, names: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "C D"]:
    """Class vectors (``prompts.class_vectors``), on the CPU. Collective."""

    def compute() -> Float[Tensor, "C D"]:
        return class_vectors(model.encode_text, names, templates, run.track).cpu()

    return cached_rows(model, run, "classes", len(names), [*names, "", *templates], compute)


def cached_rows(
    model: Model,
    run: EvalContext,
    kind: str,
    count: int,
    data: Iterable[str],
    compute: Callable[[], Float[Tensor, "N D"]],
    **preparation: str,
) -> Float[Tensor, "N D"]:
    """Read ``count`` rows of ``kind`` from the run's cache; ``compute`` them where they are missing. Collective.

    Their key is made of ``data``, ``preparation`` and the model's weights.
    """
    if run.cache is None:
        return compute()
    key = {"of": f"{count} {kind}", "data": digest(data), **preparation, "model": model.digest}
    return run.cache.rows(key, count, compute)


def pixels(fit: Fit, image: ImageSource, side: int) -> UInt8[Tensor, "3 S S"]:
    """The pixels of an image, fitted to a square."""
    return as_pixels(fit(image.open(), side))


def as_pixels(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """An RGB image as a tensor."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def batch_ranges(count: int, size: int) -> list[range]:
    """The numbers from 0 to ``count`` - 1, ``size`` at a time."""
    return [range(i, min(i + size, count)) for i in range(0, count, size)]


def load_batches(
    load: Callable[[int], T], batches: Sequence[range], run: EvalContext, label: str
) -> Iterator[tuple[range, list[T]]]:
    """This rank's batches, each with ``load`` of its numbers; threads load one while its predecessor is worked on."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[tuple[range, list[Future[T]]]] = deque()
        try:
            for batch in run.track(rank_share(batches), label):
                waiting.append((batch, [pool.submit(load, number) for number in batch]))
                if len(waiting) > 1:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(batch: range, futures: list[Future[T]]) -> tuple[range, list[T]]:
    return batch, [future.result() for future in futures]


def gather_batches(rows: list[Float[Tensor, "_ D"]], batches: list[range]) -> Float[Tensor, "N D"]:
    """The rows of all ranks, in the order of the batches, on the CPU. Collective."""
    gathered = gather_rows(rows, torch.float32)
    if gathered is None:
        raise ValueError("there is nothing to embed")
    ranks = rank_count()
    order = [number for first in range(ranks) for batch in batches[first::ranks] for number in batch]
    ordered = torch.empty_like(gathered, device="cpu")
    ordered[torch.tensor(order, dtype=torch.long)] = gathered.cpu()
    return ordered


def checked_rows(label: str, rows: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    """``rows`` with unit norm, on the CPU. Raises ValueError where they are not unit vectors."""
    return unit_rows(f"{label}: embeddings", rows).cpu()
