"""The encoder's weights with the position table in one piece, as every other layout has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_modules.networks.long_context import PositionTable, stretch_positions
from lightning_modules.networks.weights.parameter_map import POSITIONS, State, complain

if TYPE_CHECKING:
    from lightning_modules.networks.encoder import DualEncoder

PARTS = tuple(POSITIONS.removesuffix("weight") + part for part in ("frozen", "trained"))


def position_table(encoder: DualEncoder) -> PositionTable:
    """The module that holds the text positions."""
    table = encoder.text_tower.get_submodule("transformer.embeddings.position_embedding")
    assert isinstance(table, PositionTable)
    return table


def whole_state(encoder: DualEncoder) -> State:
    """The state dict with frozen and trained positions joined."""
    state = {name: tensor for name, tensor in encoder.state_dict().items() if name not in PARTS}
    return {**state, POSITIONS: position_table(encoder).weight.detach()}


def load_state(encoder: DualEncoder, state: Mapping[str, Tensor], source: str = "the state dict") -> None:
    """Fill the encoder; the position table is stretched, or cut, to the encoder's context.

    Raises:
        ValueError: naming parameters that are missing, unknown or of another shape.
    """
    context = encoder.config.context_length
    table = state[POSITIONS]
    table = table[:context] if len(table) >= context else stretch_positions(table, context)
    state = {**state, POSITIONS: table}
    current = whole_state(encoder)
    complain("lacks", current.keys() - state.keys(), source)
    complain("has unknown", state.keys() - current.keys(), source)
    complain("has of another shape", [name for name in current if current[name].shape != state[name].shape], source)
    position_table(encoder).load_table(table)
    encoder.load_state_dict({name: t for name, t in state.items() if name != POSITIONS}, strict=False)
