"""Filters Lightning's advertisements, and its warnings about intended settings, out of a run's log."""

from __future__ import annotations

import logging
import warnings

WARNINGS = (  # about intended settings, or about internals of other packages
    *("does not have many workers", "exists and is not empty", "there is no last checkpoint available"),
    *("LeafSpec", "was deprecated in v4", "when logging on epoch level in distributed setting"),
    *("your dataloader is not resumable", "across ranks is zero"),  # GranularityData makes it resumable
    *("is not supported by the model summary", "in eval mode at the start of training"),
)
MESSAGES = (  # a line of our own reports what matters of them
    *("litlogger", "litmodels", "GPU available:", "TPU available:", "HPU available:", "Automatic Mixed Precision"),
    *("Seed set to", "to estimate number of stepping batches"),
)
LOGGERS = (
    *(
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning_utilities.core.rank_zero",
    ),
    "lightning.fabric.utilities.seed",
)


def silence() -> None:
    """Install the filters in this process."""
    for words in WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{words}.*")
    for name in LOGGERS:
        logging.getLogger(name).addFilter(matters)


def matters(record: logging.LogRecord) -> bool:
    """True if a message of Lightning's is shown."""
    message = record.getMessage()
    return not any(words in message for words in MESSAGES)
