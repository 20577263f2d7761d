"""Read samples of local shards by number, for training, validation and ``lightning inspect``."""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from datamodules.batching.tokenizer import word_hash
from datamodules.sample import SampleError
from datamodules.shards.discovery import Shard
from datamodules.shards.tar_index import TarIndex

logger = logging.getLogger("grainclip")

_OPEN = 128  # files a process keeps open


class IndexedShards(NamedTuple):
    """The shards of one source and their indices."""

    urls: list[str]
    indices: list[TarIndex]

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> IndexedShards:
        """Index ``shards``; members of no sample are logged. Raises ``ShardError`` where a shard is damaged."""
        indices = [shard.index() for shard in shards]
        strays = [(shard.url, index) for shard, index in zip(shards, indices, strict=True) if index.strays]
        if strays:
            url, index = strays[0]
            logger.warning(
                "%s members of %s shards belong to no sample and are not read, such as %r of %s",
                *(sum(index.strays for _, index in strays), len(strays), index.stray, url),
            )
        return cls([shard.url for shard in shards], indices)

    @property
    def sizes(self) -> list[int]:
        """Samples of each shard."""
        return [len(index) for index in self.indices]

    def reader(self) -> TarReader:
        """A reader of the shards."""
        return TarReader(self)


class TarReader:
    """Reads samples of a source by number. The files used last stay open."""

    def __init__(self, source: IndexedShards) -> None:
        self.source = source
        self._ends = list(accumulate(source.sizes))
        self._files: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_files": OrderedDict()}

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)

    def name(self, number: int) -> tuple[str, str]:
        """The shard and the key of a sample."""
        shard, entry = self._find(number)
        return self.source.urls[shard], self.source.indices[shard].key(entry)

    def id(self, number: int) -> int:
        """A sample's identity: ``sample_id`` of its shard and its number in that."""
        shard, entry = self._find(number)
        return sample_id(self.source.urls[shard], entry)

    def read(self, number: int) -> dict[str, Any]:
        """A sample's members, still encoded. Raises ``SampleError`` (reason ``shard``) where that fails."""
        shard, entry = self._find(number)
        return self.source.indices[shard].read(self._file(shard), entry)

    def _find(self, number: int) -> tuple[int, int]:
        shard = bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        try:
            file = os.open(self.source.urls[shard], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise SampleError("shard", f"the shard cannot be opened: {error}") from error
        self._files[shard] = file
        if len(self._files) > _OPEN:
            os.close(self._files.popitem(last=False)[1])
        return file


def sample_id(shard: str, number: int) -> int:
    """A 64-bit identity of a shard's ``number``-th sample. Keys are not unique: many writers restart in each shard."""
    return word_hash(f"{shard}/{number}")
