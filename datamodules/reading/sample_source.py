"""The contract of a set of samples that are read by number: local shards, or a list of image files and captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


class SampleReader(Protocol):
    """Reads the samples of a source by number. It is pickled for loader workers."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> tuple[str, str]:
        """The shard or list, and the key of a sample, for messages."""
        ...

    def id(self, number: int) -> int:
        """A sample's 64-bit identity."""
        ...

    def read(self, number: int) -> dict[str, Any]:
        """A sample's members, encoded: ``{"__key__", "jpg" | ..., "json"}``. Raises ``SampleError``."""
        ...


@runtime_checkable
class SampleSource(Protocol):
    """Samples in parts, whose order ``reading.shuffle_order`` decides."""

    @property
    def sizes(self) -> Sequence[int]:
        """Samples of each part."""
        ...

    def reader(self) -> SampleReader:
        """A new reader of all parts, end to end."""
        ...
