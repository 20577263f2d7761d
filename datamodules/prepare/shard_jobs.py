"""Prepare at scale: a source cut into units, a shard each, made by several processes on several machines.

A unit is done when its shard, the shard's index and a note (``PREFIX-000012.json``: counts, checksum, what was left
out, statistics) exist; all three are written under another name and renamed, the note last. So a run that was killed
continues where it stopped and nothing is done twice. ``part`` "2/8" does every eighth unit from the second on, for job
arrays. The run that finds all notes writes ``manifest.json``, which is the same however the work was split.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from datamodules.batching.stored_tokens import with_tokens
from datamodules.formats.layout import sha256_of
from datamodules.granularity.cutting import CUTTING
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import IMAGE_MISSING, Rejects
from datamodules.prepare.statistics import Statistics
from datamodules.sample import SCHEMA_VERSION, Sample
from datamodules.shards.tar_index import index_path, write_index
from datamodules.shards.writer import MANIFEST, MOST_LABELS, package_versions, write_shard, write_whole

logger = logging.getLogger("grainclip")

PREFIX = "shard"
SETTINGS = "settings.json"
_NOTE_FIELDS = {"samples", "bytes", "sha256", "rejects", "examples", "labels", "statistics"}

Manifest: TypeAlias = dict[str, Any]
Note: TypeAlias = dict[str, Any]
ToSamples = Callable[[Any, Rejects], Iterator[Sample]]  # from a unit to its samples; what is left out is counted
WriteUnit = Callable[[tuple[int, Any]], Note]  # writes the shard of a numbered unit and gives its note


def in_units(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """``items`` in lists of ``size``; the last may be shorter."""
    remaining = iter(items)
    while unit := list(islice(remaining, size)):
        yield unit


def write_units(
    units: Iterable[Any],
    to_samples: ToSamples,
    job: PrepareJob,
    *,
    source: str,
    settings: Mapping[str, Any],
    rejects: Rejects | None = None,
) -> Manifest | None:
    """Write the shards of ``units`` that belong to this part and do not exist yet.

    Args:
        units: all units, in order, each what ``to_samples`` reads for one shard; taken one at a time.
        to_samples: a function that other processes can import.
        job: where shards, indices, notes and manifest go, and how the work is spread.
        source: the data set's name, for the manifest.
        settings: what decides a shard's content beside the job's own; a folder made with other ones is refused.
        rejects: what was left out beforehand and belongs to no unit.

    Returns:
        The manifest, None while shards of other parts are missing.

    Raises:
        FileExistsError: the folder was made with other settings, or holds other shards.
        ValueError: no sample was left to write.
    """
    out, settings = job.out, {**settings, **job.content}
    is_new_folder = _claim(out, {"source": source, "cutting": CUTTING, **settings}, job.overwrite)
    try:
        total, written, missed = _write_missing(units, to_samples, job, source)
    except BaseException:
        if not any(out.glob(f"{PREFIX}-[0-9]*")):
            _withdraw(out, is_new_folder)
        raise
    notes = [note for number in range(total) if (note := _note(out, number)) is not None]
    shards, missing = sum(bool(note["samples"]) for note in notes), total - len(notes)
    if shards or missing:
        logger.info("%s shards made now, %s of %s there in %s", written, shards, shards + missing, out)
    if missing:
        logger.info("manifest.json waits for %s shards of other parts", missing)
        return None
    if not shards:
        counts = sorted(_all_rejects(notes, rejects).items())
        _withdraw(out, is_new_folder)
        reasons = ", ".join(f"{count} × {reason}" for reason, count in counts) or "nothing, none was listed"
        raise ValueError(f"no sample of {source!r} was left to write; rejected: {reasons}")
    manifest, statistics = _finish(out, notes, source, settings, rejects)
    if missed:
        logger.warning(
            "%s images that were missing when their shards were made were not looked for again; --overwrite true makes "
            "all shards anew", missed,
        )  # fmt: skip
    if written and not job.quiet:
        logger.info("%s", statistics.chart())
    return manifest


def _write_missing(units: Iterable[Any], to_samples: ToSamples, job: PrepareJob, source: str) -> tuple[int, int, int]:
    """Write what is missing of this part; the number of all units, of the shards written, and of the images that were
    missing when the shards that are kept were made.
    """
    total = missed = 0

    def missing_units() -> Iterator[tuple[int, Any]]:
        nonlocal total, missed
        for number, unit in enumerate(units):
            total = number + 1
            if not job.makes(number):
                continue
            if (note := _note(job.out, number)) is None:
                yield number, unit
            else:
                missed += note["rejects"].get(IMAGE_MISSING, 0)

    write_unit = partial(_write_unit, to_samples=to_samples, out=job.out, tokens=job.tokens)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = not sys.stderr.isatty()  # quiet, since rich before 14.3 ends a disabled bar with an empty line
    with Progress(*columns, console=Console(stderr=True, quiet=hidden), disable=hidden) as progress:
        bar, samples, written = progress.add_task(source, total=None), 0, 0
        for note in _notes(missing_units(), write_unit, job.processes):
            written, samples = written + bool(note["samples"]), samples + note["samples"]
            progress.update(bar, advance=1, description=f"{source}: {samples} samples")
    return total, written, missed


def _notes(units: Iterator[tuple[int, Any]], write_unit: WriteUnit, processes: int) -> Iterator[Note]:
    if processes == 1:
        yield from map(write_unit, units)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("forkserver")) as pool:
        yield from _in_flight(pool, units, write_unit, 2 * processes)


def _in_flight(pool: Executor, units: Iterator[tuple[int, Any]], write_unit: WriteUnit, limit: int) -> Iterator[Note]:
    """The notes as they come, never more than ``limit`` units in memory. A unit that fails stops the run."""
    running: set[Future[Note]] = set()
    for unit in units:
        running.add(pool.submit(write_unit, unit))
        while len(running) >= limit:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    for future in list(running):
        yield future.result()


def _write_unit(numbered: tuple[int, Any], to_samples: ToSamples, out: Path, tokens: bool) -> Note:
    """Write one unit's shard, its index and its note; the note."""
    number, unit = numbered
    tar = _tar_path(out, number)
    rejects, statistics = Rejects(), Statistics()
    labels: set[str] = set()

    def counted_samples() -> Iterator[Sample]:
        for sample in _distinct_keys(to_samples(unit, rejects)):
            statistics.add(sample)
            labels.update(region.label for region in sample.regions if region.label)
            yield with_tokens(sample) if tokens else sample

    samples = write_shard(tar, counted_samples())
    if samples:
        write_index(tar)
    note = {
        "samples": samples,
        "bytes": tar.stat().st_size if samples else 0,
        "sha256": sha256_of(tar) if samples else "",
        "rejects": dict(sorted(rejects.items())),
        "examples": dict(sorted(rejects.examples.items())),
        "labels": sorted(labels)[: MOST_LABELS + 1],
        "statistics": statistics.counts(),
    }
    write_whole(_note_path(out, number), json.dumps(note) + "\n")
    return note


def _distinct_keys(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples; a repeated key gets a number behind it."""
    keys: set[str] = set()
    for sample in samples:
        candidates = chain([sample.key], (f"{sample.key}-{repetition}" for repetition in count(1)))
        key = next(candidate for candidate in candidates if candidate not in keys)
        keys.add(key)
        yield sample if key == sample.key else replace(sample, key=key)


def _claim(out: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Write the settings into the folder; True if the folder is new. Raises ``FileExistsError`` as ``write_units``."""
    is_new_folder = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = "is a file" if out.is_file() else f"cannot be made: {error.strerror}"
        raise OSError(f"--out must be a folder, {out} {problem}") from error
    text = json.dumps(settings, sort_keys=True, default=str) + "\n"
    settings_file = out / SETTINGS
    old_files = [*out.glob(f"{PREFIX}-[0-9]*"), *out.glob(MANIFEST)]
    if overwrite:
        for path in old_files:
            path.unlink(missing_ok=True)
    elif old_files and (not settings_file.is_file() or settings_file.read_text() != text):
        raise FileExistsError(
            f"{out} holds {old_files[0].name} of a run with other settings; give another folder, or --overwrite true"
        )
    elif settings_file.is_file() and '"cutting": ' not in settings_file.read_text(errors="replace"):
        raise FileExistsError(
            f"{settings_file} is no note of lightning prepare; give another folder, or --overwrite true"
        )
    write_whole(settings_file, text)
    return is_new_folder


def _withdraw(out: Path, is_new_folder: bool) -> None:
    """Remove all files of a run that had nothing to write."""
    for path in (*out.glob(f"{PREFIX}-[0-9]*"), out / SETTINGS):
        path.unlink(missing_ok=True)
    if is_new_folder and not any(out.iterdir()):
        out.rmdir()


def _tar_path(out: Path, number: int) -> Path:
    return out / f"{PREFIX}-{number:06d}.tar"


def _note_path(out: Path, number: int) -> Path:
    return out / f"{PREFIX}-{number:06d}.json"


def _note(out: Path, number: int) -> Note | None:
    """The note of a unit that is done, else None: no note of ours, or its shard or index is not as it says."""
    try:
        note = json.loads(_note_path(out, number).read_text())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(note, dict) or not note.keys() >= _NOTE_FIELDS:
        return None
    tar = _tar_path(out, number)
    is_whole = tar.is_file() and tar.stat().st_size == note["bytes"] and index_path(tar).is_file()
    return note if note["samples"] == 0 or is_whole else None


def _all_rejects(notes: list[Note], earlier: Rejects | None) -> Rejects:
    """The counts of what was left out: of all shards, and ``earlier``, before they were written."""
    rejects = Rejects()
    for note in notes:
        rejects.merge(note["rejects"], note["examples"])
    if earlier is not None:
        rejects.merge(earlier, earlier.examples)
    return rejects


def _finish(
    out: Path, notes: list[Note], source: str, settings: Mapping[str, Any], earlier: Rejects | None
) -> tuple[Manifest, Statistics]:
    """Write the manifest, and log what was left out."""
    rejects, statistics = _all_rejects(notes, earlier), Statistics()
    labels: set[str] = set()
    for note in notes:
        statistics.merge(note["statistics"])
        labels.update(note["labels"])
    shards = {
        _tar_path(out, number).name: {key: note[key] for key in ("samples", "bytes", "sha256")}
        for number, note in enumerate(notes)
        if note["samples"]
    }
    manifest = {
        "source": source,
        "version": SCHEMA_VERSION,
        "settings": {name: str(value) for name, value in settings.items()},
        "shards": shards,
        "samples": sum(shard["samples"] for shard in shards.values()),
        "labels": sorted(labels) if len(labels) <= MOST_LABELS else [],
        "rejects": dict(sorted(rejects.items())),
        "statistics": statistics.counts(),
        "versions": package_versions(),
    }
    write_whole(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    for drafts in (f"{PREFIX}-[0-9]*.partial", f".{PREFIX}-[0-9]*.writing"):
        for draft in out.glob(drafts):  # of runs that were killed
            draft.unlink(missing_ok=True)
    rejects.report()
    logger.info("%s samples in %s shards of %s", manifest["samples"], len(shards), out)
    return manifest, statistics
