"""Prepare at scale: a source cut into units, a shard each, made by several processes on several machines.

A unit is done when its shard, the shard's index and a note (``PREFIX-000012.json``: counts, checksum, what was left
out, statistics) are there; all three are written under another name and renamed, the note last. So a run that was
killed goes on where it stopped and nothing is done twice. ``part`` "2/8" does every eighth unit from the second on, for
job arrays. Whoever finds all notes there writes ``manifest.json``, which is the same however the work was split.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from datamodules.batching.stored_tokens import with_tokens
from datamodules.granularity.cutting import CUTTING
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import Rejects
from datamodules.prepare.statistics import Statistics
from datamodules.sample import SCHEMA_VERSION, Sample
from datamodules.shards.tar_index import index_path, write_index
from datamodules.shards.writer import MANIFEST, MOST_LABELS, package_versions, write_shard, write_whole

logger = logging.getLogger("grainclip")

PREFIX = "shard"
SETTINGS = "settings.json"
_NOTED = {"samples", "bytes", "sha256", "rejects", "examples", "labels", "statistics"}
ToSamples = Callable[[Any, Rejects], Iterator[Sample]]  # from a unit's work to its samples; rejects are counted


class Unit(NamedTuple):
    """One shard's worth of work."""

    number: int
    work: Any


Manifest: TypeAlias = dict[str, Any]
Make = Callable[[Unit], dict[str, Any]]  # writes a unit's shard and gives its note


def in_units(items: Iterable[Any], size: int) -> Iterator[Unit]:
    """``items`` in lists of ``size``, numbered."""
    chunk: list[Any] = []
    number = 0
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield Unit(number, chunk)
            chunk, number = [], number + 1
    if chunk:
        yield Unit(number, chunk)


def write_units(
    units: Iterable[Unit],
    to_samples: ToSamples,
    job: PrepareJob,
    *,
    source: str,
    settings: Mapping[str, Any],
    rejects: Rejects | None = None,
) -> Manifest | None:
    """Make the shards of ``units`` that this part is to make and that are not there yet.

    Args:
        units: all of them, in order; taken one at a time.
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
    own_folder = _claim(out, {"source": source, "cutting": CUTTING, **settings}, job.overwrite)
    make = partial(make_unit, to_samples=to_samples, out=out, tokens=job.tokens)
    total = 0

    def wanted() -> Iterator[Unit]:
        nonlocal total
        for unit in units:
            total = unit.number + 1
            if job.mine(unit.number) and not _is_done(out, unit.number):
                yield unit

    try:
        made = _made(wanted(), make, job.processes, source)
    except BaseException:
        if not any(out.glob(f"{PREFIX}-[0-9]*")):
            _withdraw(out, own_folder)
        raise
    notes = [_note(out, number) if _is_done(out, number) else None for number in range(total)]
    missing = [number for number, note in enumerate(notes) if note is None]
    there = sum(bool(note["samples"]) for note in notes if note is not None)
    if there or missing:
        logger.info("%s shards made now, %s of %s there in %s", made, there, there + len(missing), out)
    if missing:
        logger.info("manifest.json waits for %s shards of other parts", len(missing))
        return None
    whole = [note for note in notes if note is not None]
    if not any(note["samples"] for note in whole):
        left_out = _all_rejects(whole, rejects)
        _withdraw(out, own_folder)
        told = ", ".join(f"{number} × {reason}" for reason, number in sorted(left_out.items()))
        raise ValueError(f"no sample of {source!r} was left to write; rejected: {told or 'nothing, none was listed'}")
    manifest, statistics = _finish(out, whole, source, settings, rejects)
    if made and not job.quiet:
        logger.info("%s", statistics.plotted())
    return manifest


def _made(units: Iterator[Unit], make: Make, processes: int, source: str) -> int:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar, samples, made = progress.add_task(source, total=None), 0, 0
        for note in _notes(units, make, processes):
            made, samples = made + bool(note["samples"]), samples + note["samples"]
            progress.update(bar, advance=1, description=f"{source}: {samples} samples")
    return made


def _notes(units: Iterator[Unit], make: Make, processes: int) -> Iterator[dict[str, Any]]:
    if processes == 1:
        yield from map(make, units)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("forkserver")) as pool:
        yield from _in_flight(pool, units, make, 2 * processes)


def _in_flight(pool: Executor, units: Iterator[Unit], make: Make, most: int) -> Iterator[dict[str, Any]]:
    """Never more than ``most`` units in memory. A unit that fails stops the run; those made stay."""
    running: set[Future[dict[str, Any]]] = set()
    for unit in units:
        running.add(pool.submit(make, unit))
        while len(running) >= most:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    for future in list(running):
        yield future.result()


def make_unit(unit: Unit, to_samples: ToSamples, out: Path, tokens: bool) -> dict[str, Any]:
    """Write one unit's shard, its index and its note; the note."""
    tar = out / f"{PREFIX}-{unit.number:06d}.tar"
    rejects, statistics = Rejects(), Statistics()
    labels: set[str] = set()

    def seen() -> Iterator[Sample]:
        for sample in _own_keys(to_samples(unit.work, rejects)):
            statistics.add(sample)
            labels.update(region.label for region in sample.regions if region.label)
            yield with_tokens(sample) if tokens else sample

    samples = write_shard(tar, seen())
    if samples:
        write_index(tar)
    note = {
        "samples": samples,
        "bytes": tar.stat().st_size if samples else 0,
        "sha256": _sha256(tar) if samples else "",
        "rejects": dict(sorted(rejects.items())),
        "examples": dict(sorted(rejects.examples.items())),
        "labels": sorted(labels)[: MOST_LABELS + 1],
        "statistics": statistics.counts(),
    }
    write_whole(_note_path(out, unit.number), json.dumps(note) + "\n")
    return note


def _own_keys(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples; a key that comes again gets a number behind."""
    keys: set[str] = set()
    for sample in samples:
        names = chain([sample.key], (f"{sample.key}-{again}" for again in count(1)))
        key = next(name for name in names if name not in keys)
        keys.add(key)
        yield sample if key == sample.key else replace(sample, key=key)


def _claim(out: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Note the settings in the folder; whether it is made for that. Raises ``FileExistsError`` as ``write_units``."""
    own_folder = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = "is a file" if out.is_file() else f"cannot be made: {error.strerror}"
        raise OSError(f"--out must be a folder, {out} {what}") from error
    told = json.dumps(settings, sort_keys=True, default=str) + "\n"
    before = out / SETTINGS
    old = [*out.glob(f"{PREFIX}-[0-9]*"), *out.glob(MANIFEST)]
    if overwrite:
        for path in old:
            path.unlink(missing_ok=True)
    elif old and (not before.is_file() or before.read_text() != told):
        raise FileExistsError(
            f"{out} holds {old[0].name} of a run with other settings; give another folder, or --overwrite true"
        )
    elif before.is_file() and '"cutting": ' not in before.read_text(errors="replace"):
        raise FileExistsError(f"{before} is no note of lightning prepare; give another folder, or --overwrite true")
    write_whole(before, told)
    return own_folder


def _withdraw(out: Path, own_folder: bool) -> None:
    """Leave nothing of a run that had nothing to write."""
    for path in (*out.glob(f"{PREFIX}-[0-9]*"), out / SETTINGS):
        path.unlink(missing_ok=True)
    if own_folder and not any(out.iterdir()):
        out.rmdir()


def _note_path(out: Path, number: int) -> Path:
    return out / f"{PREFIX}-{number:06d}.json"


def _note(out: Path, number: int) -> dict[str, Any] | None:
    """A shard's note; None where there is none, or none that this program wrote."""
    try:
        note = json.loads(_note_path(out, number).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return note if isinstance(note, dict) and note.keys() >= _NOTED else None


def _is_done(out: Path, number: int) -> bool:
    note, tar = _note(out, number), out / f"{PREFIX}-{number:06d}.tar"
    if note is None:
        return False
    return note["samples"] == 0 or (tar.is_file() and tar.stat().st_size == note["bytes"] and index_path(tar).is_file())


def _all_rejects(notes: list[dict[str, Any]], before: Rejects | None) -> Rejects:
    """Everything that was left out: of all shards, and before they were written."""
    rejects = Rejects()
    for note in notes:
        rejects.merge(note["rejects"], note["examples"])
    if before is not None:
        rejects.merge(before, before.examples)
    return rejects


def _finish(
    out: Path, notes: list[dict[str, Any]], source: str, settings: Mapping[str, Any], before: Rejects | None
) -> tuple[Manifest, Statistics]:
    """Write the manifest, and say what was left out."""
    rejects, statistics = _all_rejects(notes, before), Statistics()
    labels: set[str] = set()
    for note in notes:
        statistics.merge(note["statistics"])
        labels.update(note["labels"])
    shards = {
        f"{PREFIX}-{number:06d}.tar": {key: note[key] for key in ("samples", "bytes", "sha256")}
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
        for left in out.glob(drafts):  # by runs that were killed
            left.unlink(missing_ok=True)
    rejects.report()
    logger.info("%s samples in %s shards of %s", manifest["samples"], len(shards), out)
    return manifest, statistics


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
