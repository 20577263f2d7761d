"""Which shards there are: patterns expanded, files checked before training starts, samples counted.

A tar that was cut while copying is found here, by walking its headers (the data is not read), not after hours of
training. Shards written by ``lightning prepare`` have a ``manifest.json`` beside them with each shard's size and count;
where it agrees with the file's size the walk is not needed. Remote shards (``s3:``, ``https:``, ``pipe:``) are not
opened here.
"""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import braceexpand

from datamodules.sample import IMAGE_EXTENSIONS

_REMOTE = re.compile(r"^(pipe|https?|s3|gs|hf|ais|file):")


class ShardError(ValueError):
    """A shard is missing, empty or damaged; the message says which one and what to do."""


@dataclass(frozen=True)
class Shard:
    """A tar and how many samples it holds (None for a remote shard, which is not opened beforehand)."""

    url: str
    samples: int | None


def find_shards(patterns: str | Path | Sequence[str | Path]) -> list[Shard]:
    """Expand braces, globs and folders into checked shards, in a stable order.

    Args:
        patterns: one or several of: a tar, a folder of tars, a glob (``data/*.tar``), braces (``data/{000..099}.tar``),
            a remote URL that webdataset opens.

    Raises:
        ShardError: nothing matches, a file is missing, is no tar, is cut short or holds no sample.
    """
    urls: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, (str, Path)) else patterns:
        urls.update(dict.fromkeys(_expand(str(pattern))))
    if not urls:
        raise ShardError("no shards given: --data.shards needs at least one tar, folder or glob")
    manifests: dict[Path, dict[str, dict[str, int]]] = {}
    return [Shard(url, None if _REMOTE.match(url) else _count(Path(url), manifests)) for url in urls]


def _expand(pattern: str) -> list[str]:
    if _REMOTE.match(pattern):
        return list(braceexpand.braceexpand(pattern))
    found: list[str] = []
    for text in braceexpand.braceexpand(pattern):
        path = Path(text).expanduser()
        if path.is_dir():
            inside = sorted(str(p) for p in path.glob("*.tar"))
            if not inside:
                raise ShardError(f"the folder {path} holds no *.tar; write shards into it with `lightning prepare`")
            found += inside
        elif any(c in text for c in "*?["):
            matches = sorted(glob.glob(str(path)))
            if not matches:
                raise ShardError(f"no file matches {text!r}; quote the pattern and check the folder {path.parent}")
            found += matches
        elif path.is_file():
            found.append(str(path))
        else:
            raise ShardError(f"the shard {path} does not exist; check the path, or give a folder or glob")
    return found


def _count(path: Path, manifests: dict[Path, dict[str, dict[str, int]]]) -> int:
    folder = path.parent
    if folder not in manifests:
        manifests[folder] = _manifest(folder)
    known = manifests[folder].get(path.name)
    size = path.stat().st_size
    if known is not None and known["bytes"] != size:
        raise ShardError(
            f"the shard {path} has {size} bytes but its manifest.json says {known['bytes']}: it was cut or changed; "
            "copy it again, or delete manifest.json to have the shard counted anew"
        )
    samples = known["samples"] if known is not None else count_samples(path)
    if samples == 0:
        raise ShardError(f"the shard {path} holds no sample (an image member, {', '.join(IMAGE_EXTENSIONS)})")
    return samples


def _manifest(folder: Path) -> dict[str, dict[str, int]]:
    file = folder / "manifest.json"
    if not file.is_file():
        return {}
    try:
        shards = json.loads(file.read_text())["shards"]
        return {name: {"samples": int(s["samples"]), "bytes": int(s["bytes"])} for name, s in shards.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            f"{file} is not a shard manifest ({error!r}); delete it to have the shards counted anew"
        ) from error


def count_samples(path: Path) -> int:
    """How many samples a local tar holds, by its headers alone.

    Raises:
        ShardError: it is no tar, or ends before its last member does.
    """
    size = path.stat().st_size
    keys: set[str] = set()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    raise ShardError(
                        f"the shard {path} is cut: {member.name} needs bytes up to {member.offset_data + member.size} "
                        f"but the file ends at {size}; copy it again or leave it out"
                    )
                stem, _, extension = member.name.rpartition("/")[2].partition(".")
                if member.isreg() and extension.lower() in IMAGE_EXTENSIONS:
                    keys.add(member.name.rpartition("/")[0] + "/" + stem)
    except tarfile.TarError as error:
        raise ShardError(
            f"the shard {path} is not a whole tar file ({error}); copy it again or leave it out"
        ) from error
    return len(keys)
