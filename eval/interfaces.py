"""Types of a benchmark on official files: a function of a model and a run, in a file of its own.

It asks the model for embeddings through :class:`Model`, finds its files under ``EvalContext.root``, and gives numbers
with all that is needed to compare them with others': the files' checksums, the preprocessing, what was left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

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
    def dense(self) -> Float[Tensor, "B P D"]:
        """Patch tokens of a square grid, row by row, not normalised."""
        ...


class Model(Protocol):
    """A model under test. It takes tensors from any device and answers on its own."""

    image_size: int  # side of the square it takes, in pixels
    context_length: int  # tokens of a text that it reads, SOT and EOT included

    @property
    def digest(self) -> str:
        """Changes with the weights; embeddings are cached under it."""
        ...

    def token_count(self, text: str) -> int:
        """The number of tokens of a text before it is cut, SOT and EOT included."""
        ...

    def encode_image(self, squares: UInt8[Tensor, "B 3 S S"]) -> ImageEmbeddings:
        """RGB pixels, 0 to 255, not normalised, to features."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Texts to unit vectors."""
        ...

    def with_grid(self, side: int) -> Model:
        """The same model on images of ``side`` by ``side`` patches, its positions stretched."""
        ...

    def pool_regions(
        self, dense: Float[Tensor, "B P D"], boxes: Float[Tensor, "R 4"], image: Int[Tensor, " R"]
    ) -> Float[Tensor, "R D"]:
        """One unit vector per box, given in fractions of image ``image[r]``."""
        ...


class AttentiveModel(Model, Protocol):
    """A model with text-conditioned attention; ValueError where it has none.

    Texts and patches are as ``encode_text`` and ``ImageEmbeddings.dense`` give them.
    """

    def attend(
        self, texts: Float[Tensor, "T D"], dense: Float[Tensor, "B P D"], image: Int[Tensor, " T"]
    ) -> Float[Tensor, "T P"]:
        """Attention of each text over the patches of image ``image[t]``."""
        ...

    def condition(
        self, texts: Float[Tensor, "T D"], dense: Float[Tensor, "B P D"], image: Int[Tensor, " T"]
    ) -> Float[Tensor, "T D"]:
        """Image ``image[t]`` as text ``t`` sees it: unit vectors."""
        ...


class ProgressBar(Protocol):
    """Hands on the steps of a long work one by one; may show how far it is."""

    def __call__(self, steps: Sequence[T], description: str) -> Iterable[T]:
        """The steps, in their order; ``description`` names the work."""
        ...


def untracked(steps: Sequence[T], description: str) -> Iterable[T]:
    """The steps, and nothing to be seen."""
    del description
    return steps


@dataclass(frozen=True)
class EvalContext:
    """The settings of an evaluation: the folder of the data sets, batch size, cache, progress.

    Args:
        root: the folder that holds the data sets in their official layouts.
        batch_size: images encoded at once; no number depends on it.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.
        track: shows progress.
        cache: where embeddings are kept.
        fit: how images become squares, in place of the benchmark's own way.
        wording: what is done to captions, in place of the benchmark's own way.
    """

    root: Path
    batch_size: int = 32
    skip_missing: bool = False
    track: ProgressBar = untracked
    cache: Cache | None = None
    fit: Fit | None = None
    wording: Wording | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


class Result(NamedTuple):
    """The results of a benchmark: numbers by name, plain settings for the file of results, counts of odd cases, and the
    results of single items, a table by name.
    """

    numbers: dict[str, float]
    settings: dict[str, Any]
    counts: dict[str, int]
    items: Mapping[str, Items] = {}


class Benchmark(Protocol):
    """A function; its name is what the user calls it by, and how its numbers' names begin."""

    @property
    def __name__(self) -> str: ...

    def __call__(self, model: Model, run: EvalContext, /) -> Result:
        """Raises ValueError or FileNotFoundError, naming the file, where one is missing or not as it should be."""
        ...
