"""torch.compile for the transformer blocks of both towers; losses and everything ragged stay as they are.

The blocks of a tower are alike, so each is compiled by itself and all of a tower share the code: minutes less than for
a whole tower, and FSDP2 can gather in between. Texts come in rows of a few fixed lengths (a little more padding) and in
any number of rows, which the compiler makes a variable when it sees the second one: no compilation after the first
steps. DDP's own splitting of graphs is for whole models and refuses variable shapes; it is off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch._dynamo
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_modules.methods.base import Method

ROW_LENGTHS = (64, 96, 128, 160, 192, 248)


class CompileBlocks(Callback):
    """Compiles the blocks before training starts.

    Args:
        backend: torch.compile's.
        mode: torch.compile's: ``default``, ``reduce-overhead`` (CUDA graphs; wants fixed shapes) or ``max-autotune``.
        row_lengths: lengths in tokens of the rows that texts are packed into; a text longer than the longest gets a
            row of the context's length.

    Raises:
        ValueError: where ``row_lengths`` is empty or not in ascending order.
    """

    def __init__(
        self,
        backend: str | Callable[..., Any] = "inductor",
        mode: str | None = None,
        row_lengths: Sequence[int] = ROW_LENGTHS,
    ) -> None:
        if not row_lengths or sorted(set(row_lengths)) != list(row_lengths) or row_lengths[0] < 1:
            raise ValueError(f"row_lengths must be positive and ascending, got {list(row_lengths)}")
        self.backend, self.mode, self.row_lengths = backend, mode, tuple(row_lengths)
        self._done = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, Method):
            raise ValueError(f"CompileBlocks needs a Method, got {type(pl_module).__name__}")
        if self._done:
            return
        self._done = True
        torch._dynamo.config.optimize_ddp = False
        pl_module.encoder.fix_row_lengths(self.row_lengths)
        for block in pl_module.encoder.blocks():
            block.compile(backend=self.backend, mode=self.mode)
