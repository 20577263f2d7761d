"""The model hub in one request: the choice of a repository's files, and one line where it cannot be reached.

The hub's client requests each file apart, and retries five times where nobody answers: minutes until it reports why.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

logger = logging.getLogger("grainclip")

OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
BIN = "pytorch_model.bin"
INDEXES = ("model.safetensors.index.json", f"{BIN}.index.json")  # of weights in several files (`max_shard_size`)
TRANSFORMERS = ("model.safetensors", INDEXES[0], BIN, INDEXES[1])
OPEN_CLIP_CONFIG = "open_clip_config.json"
CONFIGS = (OPEN_CLIP_CONFIG, "config.json")
TOKENIZER_FILES = (  # of transformers' tokenizers, whatever their kind
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
)
PROCESSORS = (*TOKENIZER_FILES, "preprocessor_config.json", "processor_config.json")  # of a model's texts and images
SECONDS = 8.0  # for the hub's answer


def weights_of(names: Collection[str]) -> str | None:
    """The weights file among ``names``; safetensors first, open_clip's where its config file lies there too.

    A repository of timm's with such a config has an image tower alone under transformers' names.
    """
    kinds = (OPEN_CLIP, TRANSFORMERS) if OPEN_CLIP_CONFIG in names else (TRANSFORMERS, OPEN_CLIP)
    return next((name for kind in kinds for name in kind if name in names), None)


def parts_of(index: Path) -> list[str]:
    """Names of the files that an index of split weights names; they lie beside it.

    Raises:
        ValueError: where it is truncated or no index.
    """
    try:
        names = sorted({Path(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is truncated or no index of weights: it must hold a weight_map") from error
    if not names or any(len(name.parts) != 1 or name.name == ".." for name in names):
        raise ValueError(f"{index}: weight_map must name files beside it, got {', '.join(map(str, names)) or 'none'}")
    return [name.name for name in names]


def from_hub(repository: str) -> Path:
    """The weights file of a hub repository, its config and processor files beside it; downloaded, or from the cache.
    Of weights in several files it is their index.

    Raises:
        ValueError: as ``parts_of``.
        FileNotFoundError: where there is no such repository, it holds no weights, or it is not in the cache and the
            hub cannot be reached.
    """
    try:
        names = _names(repository)
    except FileNotFoundError:
        raise
    except Exception as error:  # of whichever HTTP library the hub's client uses
        return _from_cache(repository, error)
    weights = weights_of(names)
    if weights is None:
        raise FileNotFoundError(f"{repository} holds no weights: looked for {', '.join((*TRANSFORMERS, *OPEN_CLIP))}")
    for name in names.intersection((*CONFIGS, *PROCESSORS)):
        hf_hub_download(repository, name)
    path = Path(hf_hub_download(repository, weights))
    if weights in INDEXES:
        for name in parts_of(path):
            hf_hub_download(repository, name)
    return path


def folder_from_hub(repository: str, wanted: Collection[str]) -> Path:
    """The folder of the hub's cache with those of the ``wanted`` files that a repository has.

    Raises:
        FileNotFoundError: where it has none of them, or is not in the cache and the hub cannot be reached.
    """
    try:
        names = _names(repository).intersection(wanted)
        paths = [hf_hub_download(repository, name) for name in names]
    except FileNotFoundError:
        raise
    except Exception as error:  # of whichever HTTP library the hub's client uses
        cached = [try_to_load_from_cache(repository, name) for name in wanted]
        paths = [path for path in cached if isinstance(path, str)]
        if not paths:
            raise FileNotFoundError(f"{repository}: {_unreached(error)}, and its cache does not hold it") from error
    if not paths:
        raise FileNotFoundError(f"{repository} has none of {', '.join(sorted(wanted))}")
    return Path(paths[0]).parent


def _names(repository: str) -> set[str]:
    """The names of a repository's files. Raises FileNotFoundError where there is none that may be read."""
    try:
        return {file.rfilename for file in HfApi().model_info(repository, timeout=SECONDS).siblings or []}
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise FileNotFoundError(
            f"the hub has no model {repository} that may be read without a login: no such name, private or gated"
        ) from error


def _unreached(error: Exception) -> str:
    """Why the hub gives nothing."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:60]
    return (
        "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else f"the hub cannot be reached ({reason})"
    )


def _from_cache(repository: str, error: Exception) -> Path:
    cached = {name: try_to_load_from_cache(repository, name) for name in (*TRANSFORMERS, *OPEN_CLIP, *CONFIGS)}
    files = {name: path for name, path in cached.items() if isinstance(path, str)}
    weights = weights_of(files)
    message = _unreached(error)
    if weights is None:
        raise FileNotFoundError(
            f"{repository}: {message}, and its cache {constants.HF_HUB_CACHE} does not hold the model"
        )
    if not isinstance(error, OfflineModeIsEnabled):
        logger.warning("%s: %s; it is taken from the cache", repository, message)
    return Path(files[weights])
