"""Files of weights that cannot be read: what is raised on them, and why in a few words."""

from __future__ import annotations

from pickle import UnpicklingError

from safetensors import SafetensorError

UNREADABLE = (  # what PyTorch and safetensors raise on files that are cut, damaged or of another kind
    *(SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError),
    *(IndexError, KeyError, ValueError, TypeError, AttributeError),
)
MOST = 80  # letters


def why_unreadable(error: BaseException) -> str:
    """The reason in a few words: of the system, or PyTorch's without its advice to execute what the file holds."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = str(error).strip() or type(error).__name__
    if isinstance(error, UnpicklingError):
        message = message.rpartition("WeightsUnpickler error:")[2].strip()
        if message.startswith(("Unsupported operand", "Weights only load failed", "invalid load key")):
            return "it was not written by PyTorch"
        return f"it holds more than numbers and known settings ({_first(message)})"
    return "it was not written by PyTorch" if isinstance(error, (IndexError, KeyError)) else _first(message)


def _first(message: str) -> str:
    return message.splitlines()[0].partition(". ")[0][:MOST]
