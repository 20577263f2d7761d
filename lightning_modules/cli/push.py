"""``lightning export --push OWNER/NAME``: an exported folder as a new repository of the Hugging Face hub.

Private unless asked otherwise. A repository that is there already is left alone: whoever wants to replace its files has
``hf upload``. ``HF_ENDPOINT`` and ``HF_TOKEN`` are the library's own.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def check_push(name: str) -> None:
    """Raise ValueError where nothing could be pushed to ``name``: before the export, which takes longer."""
    check_name(name)
    if get_token() is None:
        raise ValueError("--push needs a token of the hub that may write: `hf auth login`, or HF_TOKEN")
    with hub_errors(name):
        there = HfApi().repo_exists(name)
    if there:
        raise ValueError(f"--push makes a new repository, and {name} is there already: choose another name")


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` is OWNER/NAME as the hub allows it."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"--push must be OWNER/NAME of letters, digits, '-', '_' and '.', got {name!r:.80}") from error
    if name.count("/") != 1:
        raise ValueError(f"--push must be OWNER/NAME, got {name!r:.80}")


def push(folder: Path, name: str, public: bool = False) -> str:
    """Make the repository and upload the folder's files in one commit; its address.

    Raises:
        ValueError: where the hub refuses or cannot be reached; where the repository is made by then, the message says
            so, and which command finishes.
    """
    hub = HfApi()
    with hub_errors(name):
        made = hub.create_repo(name, private=not public)
    try:
        with hub_errors(name):
            hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of GrainCLIP")
    except ValueError as error:
        command = f"hf upload {name} {shlex.quote(str(folder))}"
        raise ValueError(f"{error}; the repository is made and the folder is whole, `{command}` finishes") from error
    return str(made)


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into ValueError, naming the repository and the hub."""
    try:
        yield
    except Exception as error:  # the client's own, its HTTP library's, the system's
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"status {status}" if status else (lines or [type(error).__name__])[0][:80]
        raise ValueError(f"{name} cannot be pushed to {constants.ENDPOINT}: {reason}") from error
