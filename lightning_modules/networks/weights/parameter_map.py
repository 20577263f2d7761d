"""Maps our parameters to those of other formats: a layout is a list of links, read in either direction.

A link says that our tensors, joined along axis 0, are their tensors, joined along axis 0 (a fused q, k, v here is often
three matrices there, and the other way round), perhaps transposed, perhaps without our leading axes of length one.
Written out in full for a given depth, a layout also tells exactly which names a checkpoint lacks or has too many.

Our side is the state dict of ``DualEncoder`` with the position table in one piece (``POSITIONS``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]
POSITIONS = "text_tower.transformer.embeddings.position_embedding.weight"
SHOWN = 8  # names listed in an error


class Link(NamedTuple):
    """The same numbers under our names and under theirs."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transposed: bool = False
    leading: int = 0  # axes of length one which ours has in front and theirs has not

    def read(self, state: Mapping[str, Tensor]) -> State:
        """Their tensors as ours."""
        joined = join(state, self.theirs)
        joined = joined.T if self.transposed else joined
        joined = joined[(None,) * self.leading]
        return split(joined, self.ours)

    def write(self, state: Mapping[str, Tensor]) -> State:
        """Our tensors as theirs."""
        joined = join(state, self.ours)
        joined = joined.reshape(joined.shape[self.leading :])
        joined = joined.T if self.transposed else joined
        return split(joined, self.theirs)


def join(state: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """The named tensors one after the other (a scalar has no axis to be joined along, nor is there another)."""
    tensors = [state[name] for name in names]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def split(joined: Tensor, names: Sequence[str]) -> State:
    """The inverse of ``join``; contiguous, as safetensors wants them."""
    pieces = [joined] if len(names) == 1 else joined.chunk(len(names))
    return {name: piece.contiguous() for name, piece in zip(names, pieces, strict=True)}


def same(ours: str, theirs: str, *suffixes: str) -> list[Link]:
    """Links of one module's parameters, e.g. ``same("norm", "ln_post", ".weight", ".bias")``."""
    return [Link((ours + suffix,), (theirs + suffix,)) for suffix in suffixes or (".weight", ".bias")]


def read(links: Iterable[Link], state: Mapping[str, Tensor], source: str, ignored: Collection[str] = ()) -> State:
    """Their state dict as ours.

    Raises:
        ValueError: naming what ``state`` lacks, or what it has that the layout does not know.
    """
    links = list(links)
    known = {name for link in links for name in link.theirs}
    complain("lacks", known - state.keys(), source)
    complain("has unknown", state.keys() - known - set(ignored), source)
    return {name: tensor for link in links for name, tensor in link.read(state).items()}


def write(links: Iterable[Link], state: Mapping[str, Tensor]) -> State:
    """Our state dict as theirs."""
    return {name: tensor for link in links for name, tensor in link.write(state).items()}


def complain(verb: str, names: Collection[str], source: str) -> None:
    """Stop where there are names to complain about, listing the first few."""
    if names:
        shown = ", ".join(sorted(names)[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise ValueError(f"{source} {verb} {len(names)} parameters: {shown}{more}")
