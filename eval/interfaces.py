"""Types of a benchmark on released files: a function of a model and a run, in a file of its own.

A benchmark gets embeddings through :class:`Model`, finds its files under ``EvalContext.root``, and returns numbers with
what a comparison needs: the files' checksums, the preprocessing, and counts of what was left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from eval.data.cache import Cache
from eval.data.caption_preprocessing import Wording
from eval.data.image_preprocessing import Fit
from eval.results.per_item import Items

T = TypeVar("T")


class ImageEmbeddings(Protocol):
    """Embeddings of a batch of images."""

    @property
    def image(self) -> Float[Tensor, "B D"]:
        """One unit vector per image."""
        ...

    @property
    def dense(self) -> Float[Tensor, "B D h w"]:
        """Patch tokens of a square grid, row by row, not normalised."""
        ...


class Model(Protocol):
    """A model under test. It accepts tensors on any device and returns them on its own."""

    image_size: int  # side of its square input, in pixels
    context_length: int  # the most tokens of a text, SOT and EOT included

    @property
    def digest(self) -> str:
        """A hash of the weights; it is part of the keys of cached embeddings."""
        ...

    def token_count(self, text: str) -> int:
        """The number of tokens of a text before it is cut, SOT and EOT included."""
        ...

    def encode_image(self, squares: UInt8[Tensor, "B 3 S S"]) -> ImageEmbeddings:
        """Embeddings of RGB pixels, 0 to 255, not normalised."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit vectors of texts."""
        ...

    def with_grid(self, side: int) -> Model:
        """The same model for images of ``side`` by ``side`` patches, with interpolated position embeddings."""
        ...

    def pool_regions(
        self, dense: Float[Tensor, "B D h w"], boxes: Float[Tensor, "R 4"], image: Int[Tensor, " R"]
    ) -> Float[Tensor, "R D"]:
        """One unit vector per box, given in fractions of image ``image[r]``."""
        ...


class AttentiveModel(Model, Protocol):
    """A model with text-conditioned attention; its methods raise ValueError where the model has none.

    Texts and patches are as ``encode_text`` and ``ImageEmbeddings.dense`` give them.
    """

    def attend(
        self, texts: Float[Tensor, "T D"], dense: Float[Tensor, "B D h w"], image: Int[Tensor, " T"]
    ) -> Float[Tensor, "T P"]:
        """Attention of each text over the patches of image ``image[t]``."""
        ...

    def condition(
        self, texts: Float[Tensor, "T D"], dense: Float[Tensor, "B D h w"], image: Int[Tensor, " T"]
    ) -> Float[Tensor, "T D"]:
        """Unit vectors of image ``image[t]``, pooled with the attention of text ``t``."""
        ...


class ProgressBar(Protocol):
    """Yields the steps of a long task one by one, and may show the progress."""

    def __call__(self, steps: Sequence[T], description: str) -> Iterable[T]:
        """The steps, in their order; ``description`` names the task."""
        ...


def untracked(steps: Sequence[T], description: str) -> Iterable[T]:
    """The steps, without a progress display."""
    del description
    return steps


@dataclass(frozen=True)
class EvalContext:
    """The settings of an evaluation: the folder of the data sets, batch size, cache, progress.

    Args:
        root: the folder that holds the data sets in their official layouts.
        batch_size: images encoded at once; numbers do not depend on it.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.
        track: shows progress.
        cache: stores embeddings.
        fit: how images become squares; replaces the benchmark's own fit.
        wording: how captions are preprocessed; replaces the benchmark's own wording.
        rerank: candidates of each query that retrieval scores anew, by text-conditioned pooling; None: none.
    """

    root: Path
    batch_size: int = 32
    skip_missing: bool = False
    track: ProgressBar = untracked
    cache: Cache | None = None
    fit: Fit | None = None
    wording: Wording | None = None
    rerank: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.rerank is not None and self.rerank < 1:
            raise ValueError(f"rerank must be at least 1, got {self.rerank}")


class Result(NamedTuple):
    """The results of a benchmark: numbers by name, settings for the file of results, counts of special cases, and
    tables of per-item results by name.
    """

    numbers: dict[str, float]
    settings: dict[str, Any]
    counts: dict[str, int]
    items: Mapping[str, Items] = {}


class Benchmark(Protocol):
    """A function; the user selects it by its name, which is also the first part of its numbers' names."""

    @property
    def __name__(self) -> str: ...

    def __call__(self, model: Model, run: EvalContext, /) -> Result:
        """Raises ValueError or FileNotFoundError, naming the file, where one is missing or breaks its format."""
        ...


@dataclass(frozen=True)
class PathBenchmark:
    """Base of the benchmarks ``KIND:PATH``, which read a file or folder of the user's choice."""

    path: str
    kind: ClassVar[str]

    @property
    def __name__(self) -> str:
        return f"{self.kind}:{self.path}"

    @property
    def head(self) -> str:
        """The first part of its numbers' names: the path is shortened in it."""
        return f"{self.kind}:{Path(self.path).name}"
