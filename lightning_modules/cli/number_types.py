"""Types of settings that take whole numbers and others: the parser tries the types in their order.

For ``typing`` ``Union[int, float]`` and ``Union[float, int]`` are equal, and its cache gives out whichever was written
first in the process, by whatever library. Where ``float`` comes first, 2 batches become 2.0, and 1 becomes a share.
"""

from __future__ import annotations

import operator
import types
import typing
from functools import reduce
from typing import Any


def int_before_float(hint: Any) -> Any:
    """The type ``hint``; a union of both kinds of numbers tries ``int`` before ``float``."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    kinds = list(typing.get_args(hint))
    if int not in kinds or float not in kinds or kinds.index(int) < kinds.index(float):
        return hint
    kinds.remove(int)
    kinds.insert(kinds.index(float), int)
    return reduce(operator.or_, kinds)  # Union[...] would be looked up in the cache
