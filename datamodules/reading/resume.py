"""The position of a run in its data: the samples that all ranks together have been trained on.

Lightning counts batches per rank. Where a resumed run has another global batch size, the count of the epoch in progress
is converted to batches of the new size.
"""

from __future__ import annotations

from typing import Any

from lightning import Trainer


class ResumeState:
    """The samples trained on: a checkpoint's count, and what Lightning has counted since."""

    def __init__(self) -> None:
        self.restored = 0  # samples before this run
        self.stream: dict[str, Any] | None = None  # of remote shards: ``StreamBatches.state``
        self._since: int | None = None  # Lightning's count of batches when this run began; None before that

    def load(self, state: dict[str, Any]) -> None:
        """Load a checkpoint's count."""
        self.restored, self._since = int(state["samples"]), None
        self.stream = state.get("stream")

    def samples(self, trainer: Trainer | None, global_batch: int) -> int:
        """The number of samples that have been trained on."""
        if trainer is None or self._since is None:
            return self.restored
        # .completed lags one behind when a checkpoint is written inside a step
        return self.restored + (_processed(trainer) - self._since) * global_batch

    def resume_point(self, trainer: Trainer | None, global_batch: int, batches: int) -> tuple[int, int]:
        """Samples trained on, and batches done of an epoch of ``batches``.

        Call it when the first batch is read: Lightning makes loaders and their iterators before it restores its counts.
        """
        if trainer is None:
            return self.restored, self.restored // global_batch % batches
        if self._since is None:
            self._since = _processed(trainer)
        current = trainer.fit_loop.epoch_loop.batch_progress.current
        return self.samples(trainer, global_batch), current.ready


def fit_epoch(checkpoint: dict[str, Any], old_batch: int, new_batch: int, batches: int) -> None:
    """Turn a checkpoint's count of the epoch in progress from global batches of ``old_batch`` to ``new_batch`` samples.

    ``batches`` of these make an epoch. Changes ``checkpoint``, as Lightning is about to restore it.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    current = progress["current"]
    lag = current["ready"] - current["completed"]  # inside a step its batch does not count as completed
    done = min(current["ready"] * old_batch // new_batch, batches)
    current.update(ready=done, started=done, processed=done, completed=done - lag)
    progress["is_last_batch"] = done == batches


def _processed(trainer: Trainer) -> int:
    return vars(trainer.fit_loop.epoch_loop.batch_progress.total)["processed"]
