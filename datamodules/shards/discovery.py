"""Finds shards: patterns expanded, files checked before training starts, samples counted.

A tar that was cut while copying is found here, by walking its headers (the data is not read), not after hours of
training. Where an index lies beside a shard (``lightning index`` and ``lightning prepare`` write them), or a
``manifest.json`` with its size and count, the walk is not needed. Remote shards (``s3:``, ``https:``, ``pipe:``) are
not opened here.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import braceexpand

from datamodules.formats.row_readers import TABLES
from datamodules.sample import IMAGE_EXTENSIONS
from datamodules.shards.tar_index import TarError, TarIndex, load_index

_REMOTE = re.compile(r"^(pipe|https?|s3|gs|hf|ais|file):")


def is_remote(url: str) -> bool:
    """True if a shard is streamed from remote storage."""
    return bool(_REMOTE.match(url))


class ShardError(ValueError):
    """A shard is missing, empty or damaged; the message says which one and what to do."""


@dataclass(frozen=True)
class Shard:
    """A tar and how many samples it holds (None for a remote shard, which is not opened beforehand)."""

    url: str
    samples: int | None
    known: TarIndex | None = field(default=None, compare=False, repr=False)

    def index(self) -> TarIndex:
        """The index of its samples; only of a local shard.

        Raises:
            ShardError: it is damaged, or its manifest counts otherwise.
        """
        index = self.known or open_index(Path(self.url))
        if len(index) != self.samples:
            raise ShardError(
                f"the shard {self.url} holds {len(index)} samples but its manifest.json says {self.samples}; delete "
                "manifest.json to have the shards counted again"
            )
        return index


def find_shards(patterns: str | Path | Sequence[str | Path]) -> list[Shard]:
    """Expand braces, globs and folders into checked shards, in a stable order.

    Args:
        patterns: one or several of: a tar, a folder of tars, a glob (``data/*.tar``), braces (``data/{000..099}.tar``),
            a remote URL (pipe, http, https, s3, gs, hf, ais, file).

    Raises:
        ShardError: nothing matches, a file is missing, is no tar, is cut short or holds no sample.
    """
    urls = expand_shards(patterns)
    manifests: dict[Path, dict[str, dict[str, int]]] = {}
    return [Shard(url, None) if is_remote(url) else _checked(Path(url), manifests) for url in urls]


def expand_shards(patterns: str | Path | Sequence[str | Path]) -> list[str]:
    """The paths and URLs that ``patterns`` stand for, each once, in a stable order; the tars are not opened.

    Raises:
        ShardError: nothing matches, or a file is missing.
    """
    urls: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, (str, Path)) else patterns:
        urls.update(dict.fromkeys(_expand(str(pattern))))
    if not urls:
        raise ShardError("no shards given: --data.shards needs at least one tar, folder or glob")
    return list(urls)


def expand_local_shards(patterns: str | Path | Sequence[str | Path], action: str) -> list[str]:
    """The paths that ``patterns`` stand for, as ``expand_shards``.

    Raises:
        ShardError: as ``expand_shards``, or a shard is remote; ``action`` says in the message what needs a local one.
    """
    urls = expand_shards(patterns)
    if remote := [url for url in urls if is_remote(url)]:
        raise ShardError(f"only local shards can be {action}, got {remote[0]}")
    return urls


def _expand(pattern: str) -> list[str]:
    if is_remote(pattern):
        return list(braceexpand.braceexpand(pattern))
    paths: list[str] = []
    for text in braceexpand.braceexpand(pattern):
        path = Path(text).expanduser()
        if path.is_dir():
            tars = sorted(str(p) for p in path.glob("*.tar"))
            if not tars:
                raise ShardError(f"the folder {path} holds no *.tar; write shards into it with `lightning prepare`")
            paths += tars
        elif any(c in text for c in "*?["):
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                raise ShardError(f"no file matches {text!r}; quote the pattern and check the folder {path.parent}")
            paths += matches
        elif path.is_file() and path.suffix.lower() in TABLES:
            raise ShardError(f"{path} is a table; `lightning prepare table --annotations {path}` makes shards of it")
        elif path.is_file():
            paths.append(str(path))
        else:
            raise ShardError(f"the shard {path} does not exist; check the path, or give a folder or glob")
    return paths


def _checked(path: Path, manifests: dict[Path, dict[str, dict[str, int]]]) -> Shard:
    folder = path.parent
    if folder not in manifests:
        manifests[folder] = _manifest(folder)
    entry = manifests[folder].get(path.name)
    size = path.stat().st_size
    if entry is not None and entry["bytes"] != size:
        raise ShardError(
            f"the shard {path} has {size} bytes but its manifest.json says {entry['bytes']}: it was cut or changed; "
            "copy it again, or delete manifest.json to have the shard counted again"
        )
    if entry is not None:
        return Shard(str(path), entry["samples"])
    index = open_index(path)
    return Shard(str(path), len(index), index)


def _manifest(folder: Path) -> dict[str, dict[str, int]]:
    file = folder / "manifest.json"
    if not file.is_file():
        return {}
    try:
        shards = json.loads(file.read_bytes())["shards"]
        return {name: {"samples": int(s["samples"]), "bytes": int(s["bytes"])} for name, s in shards.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            f"{file} is not a shard manifest ({error!r}); delete it to have the shards counted again"
        ) from error


def open_index(path: Path) -> TarIndex:
    """The index of a local tar's samples.

    Raises:
        ShardError: it is no tar, ends before its last member does, or holds no image.
    """
    try:
        index = load_index(path)
    except TarError as error:
        raise refuse_damaged(path, error) from error
    if index.images == 0:
        raise ShardError(f"the shard {path} holds no sample (an image member, {', '.join(IMAGE_EXTENSIONS)})")
    return index


def refuse_damaged(path: Path, error: TarError) -> ShardError:
    """The error for a damaged tar."""
    return ShardError(f"the shard {path} is not a whole tar file ({error}); copy it again or leave it out")
