"""Write samples into shards: plain WebDataset tars, and a ``manifest.json`` with their counts.

A shard is written under another name and renamed when it is whole, so every file called ``.tar`` can be read. Equal
samples give equal bytes: the tars carry no times and no user. Every sample is read back before it is stored, so nothing
is written that the reader would refuse.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from datamodules.atomic_write import named_disk_errors, write_text
from datamodules.sample import SCHEMA_VERSION, Sample, SampleError

MANIFEST = "manifest.json"
MOST_LABELS = 2000  # LVIS has 1203 classes; more labels than this are free text
_PACKAGES = ("grainclip", "nltk", "pillow", "webdataset")
_KEY = re.compile(r"[\w-]+(/[\w-]+)*")


def write_shards(
    samples: Iterable[Sample],
    folder: Path,
    *,
    source: str,
    prefix: str = "shard",
    samples_per_shard: int = 1000,
    rejects: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``samples`` to ``folder/PREFIX-000000.tar``, ``...-000001.tar`` and so on, then the manifest.

    Args:
        samples: the samples, in order; taken one at a time.
        folder: made where it is missing.
        source: the data set's name, for the manifest.
        prefix: how the shards' names begin.
        samples_per_shard: how many samples a shard holds, but the last.
        rejects: how many items were left out, by reason; read after the last sample.
        overwrite: replace the shards of this prefix and the manifest that ``folder`` holds; they are deleted first.

    Returns:
        The manifest: ``{"source", "version", "shards": {name: {"samples", "bytes"}}, "samples", "labels", "rejects",
        "versions"}``; ``labels`` are the regions' distinct labels, none where there are too many to be classes.

    Raises:
        FileExistsError: ``folder`` holds shards or a manifest, and ``overwrite`` is off.
        ValueError: ``samples_per_shard`` below 1, a key that is no plain name or stands twice in a shard, no sample
            at all, or a sample that the reader would refuse.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    for old_file in require_free(folder, prefix=prefix, overwrite=overwrite):
        old_file.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    labels: set[str] = set()
    remaining = _collect_labels(samples, labels)
    first = next(remaining, None)
    shards: dict[str, dict[str, int]] = {}
    while first is not None:
        path = folder / f"{prefix}-{len(shards):06d}.tar"
        count, first = _write_shard(path, first, remaining, samples_per_shard)
        shards[path.name] = {"samples": count, "bytes": path.stat().st_size}
    if not shards:
        raise ValueError(f"no sample of {source!r} was left to write; rejected: {dict(rejects or {})}")
    manifest = {
        "source": source,
        "version": SCHEMA_VERSION,
        "shards": shards,
        "samples": sum(shard["samples"] for shard in shards.values()),
        "labels": sorted(labels) if len(labels) <= MOST_LABELS else [],
        "rejects": dict(sorted((rejects or {}).items())),
        "versions": package_versions(),
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def require_free(folder: Path, *, prefix: str = "shard", overwrite: bool = False) -> list[Path]:
    """Check before any long work that shards can be written into ``folder``.

    Returns:
        The files there that writing would replace; only with ``overwrite`` there may be shards or a manifest.

    Raises:
        FileExistsError: there are shards of ``prefix`` or a manifest, and ``overwrite`` is off.
    """
    old = [*sorted(folder.glob(f"{prefix}-[0-9]*.tar")), *folder.glob(MANIFEST)]
    if old and not overwrite:
        raise FileExistsError(
            f"{folder} already holds {old[0].name} ({len(old)} files); give another folder, or --overwrite true to "
            "replace them"
        )
    return [*old, *folder.glob(f"{prefix}-[0-9]*.tar.partial")]


def _collect_labels(samples: Iterable[Sample], labels: set[str]) -> Iterator[Sample]:
    for sample in samples:
        if len(labels) <= MOST_LABELS:
            labels.update(region.label for region in sample.regions if region.label)
        yield sample


def write_shard(path: Path, samples: Iterable[Sample]) -> int:
    """Write one shard of all ``samples``, atomically; their number. Without samples no file is written.

    Raises:
        ValueError: a key is no plain name or stands twice, or a sample is one that the reader would refuse.
    """
    remaining = iter(samples)
    first = next(remaining, None)
    return 0 if first is None else _write_shard(path, first, remaining, sys.maxsize)[0]


def package_versions() -> dict[str, str]:
    """Versions of the packages that shards are made with."""
    return {name: _version(name) for name in _PACKAGES}


def _write_shard(path: Path, first: Sample, remaining: Iterator[Sample], max_samples: int) -> tuple[int, Sample | None]:
    """Fill one shard. Returns the number of its samples, and the first sample of the next shard."""
    from webdataset.writer import TarWriter  # it imports torch, for which `lightning prepare --help` need not wait

    partial = path.with_name(path.name + ".partial")
    sample: Sample | None = first
    keys: set[str] = set()
    try:
        with (
            named_disk_errors(path),
            partial.open("wb") as file,
            TarWriter(file, encoder=False, user="", group="", mtime=0) as tar,
        ):
            while sample is not None and len(keys) < max_samples:
                if sample.key in keys:
                    raise ValueError(f"keys must differ within a shard, got {sample.key!r} twice in {path.name}")
                keys.add(sample.key)
                tar.write(_checked(sample))
                sample = next(remaining, None)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return len(keys), sample


def _checked(sample: Sample) -> dict[str, Any]:
    if not _KEY.fullmatch(sample.key):
        raise ValueError(f"a key must be made of letters, digits, _, - and inner /, got {sample.key!r}")
    try:
        members = sample.members()
        Sample.from_members(members)
    except (SampleError, UnicodeEncodeError) as error:
        raise ValueError(f"sample {sample.key!r} breaks the shard schema: {error}") from error
    return members


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically; the error of a full disk names it."""
    with named_disk_errors(path):
        write_text(path, text)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
