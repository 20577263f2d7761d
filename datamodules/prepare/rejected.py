"""Counts of what a source leaves out, by reason, with a few names of each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

logger = logging.getLogger("grainclip")

IMAGE_MISSING = "image missing"


class Rejected(Exception):
    """An image, a phrase or a box is left out; ``reason`` is the short constant name by which it is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Rejects(Counter[str]):
    """The number of items that were left out, by reason; a ``Counter`` with examples."""

    def __init__(self, max_examples: int = 3) -> None:
        super().__init__()
        self.max_examples = max_examples
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, name: object) -> None:
        """Count one item, called ``name`` in the report, left out for ``reason``."""
        self[reason] += 1
        names = self.examples.setdefault(reason, [])
        if len(names) < self.max_examples:
            names.append(str(name))

    def merge(self, counts: Mapping[str, int], examples: Mapping[str, list[str]]) -> None:
        """Add the counts and examples of another process or shard."""
        self.update(counts)
        for reason, names in examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + names)[: self.max_examples]

    def add_image(self, reason: str, name: object, boxes: int) -> None:
        """Count one image, and the ``boxes`` that are lost with it."""
        self.add(reason, name)
        for _ in range(boxes):
            self.add("box of an image left out", name)

    def report(self) -> None:
        """Log one line a reason."""
        for reason, count in sorted(self.items()):
            names = ", ".join(self.examples[reason])
            ellipsis = ", ..." if count > self.max_examples else ""
            logger.warning("left out: %s × %s (%s%s)", count, reason, names, ellipsis)
