"""GRIT (Kosmos-2, Peng et al., 2023) as shards, from what img2dataset fetches: web images, their phrases grounded.

A detector boxed each caption's noun chunks, and a parser grew them to referring expressions ("a dog" to "a dog in a
field"): ``noun_chunks`` and ``ref_exps`` both list ``[start, end, x0, y0, x1, y1, score]``, characters of the caption
and fractions of the image. Both become phrases; an expression that is a chunk grown by nothing is the same phrase.

img2dataset writes each image with a JSON, in tars or in folders. A tar is read from front to back, and becomes one
shard; of a folder's files only the names are held.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from datamodules.formats.layout import CAPTION, PIXELS, Rule, described_folder, described_tar, is_number
from datamodules.granularity.cutting import Span
from datamodules.prepare.boxes import from_fractions, usable_boxes
from datamodules.prepare.grounding import GroundedImage, grounded_sample, tidy_caption
from datamodules.prepare.images import check_image, sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import IMAGE_MISSING, Rejected, Rejects
from datamodules.prepare.shard_jobs import Manifest, in_units, write_units
from datamodules.prepare.tar_reader import read_members
from datamodules.sample import IMAGE_EXTENSIONS, Sample
from datamodules.shards.discovery import ShardError, expand_local_shards
from datamodules.shards.tar_members import IMAGE

_STATISTICS = "_stats.json"  # img2dataset's own, beside the images


def prepare_grit(
    data: str,
    job: PrepareJob,
    min_score: float = 0.0,
) -> Manifest | None:
    """Write shards from GRIT as img2dataset saves it, with the columns `noun_chunks` and `ref_exps`.

    One shard a tar; `samples_per_shard` counts where the data are files.

    Args:
        data: a tar, a folder of tars, a glob or braces; or a folder of files, KEY.jpg and KEY.json.
        job: where to, and how.
        min_score: boxes that the detector was less sure of are left out, with their phrases, and counted.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        ShardError: there is nothing to read, or a tar is damaged.
        FileExistsError: the folder holds shards made with other settings, and ``job.overwrite`` is off.
        LayoutError: a JSON's fields are not GRIT's.
        ValueError: ``min_score`` lies outside [0, 1], or no image was left to write.
    """
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score must lie in [0, 1], got {min_score}")
    job.text_extractor.require()
    sources, names = find_sources(data, job.samples_per_shard)
    settings = {"data": names, "min_score": min_score}
    return write_units(sources, GritReader(min_score, job).samples, job, source="grit", settings=settings)


class GritItem(NamedTuple):
    """An image and its JSON, None where it is missing; ``place`` is for messages."""

    key: str
    place: str
    image: bytes | None
    json: bytes | None


class GritSource(Protocol):
    """Items that go into one shard."""

    def items(self, rejects: Rejects) -> Iterator[GritItem]:
        """The items, read one at a time. Raises ``ShardError`` where a tar is damaged."""
        ...


class TarSource(NamedTuple):
    """All items of a tar."""

    path: str

    def items(self, rejects: Rejects) -> Iterator[GritItem]:
        """The items, read one at a time; members that belong to none are counted."""
        for key, data in read_members(self.path, ("json",), rejects):
            yield GritItem(key.rpartition("/")[2], f"{self.path}, {key}.json", data.get(IMAGE), data.get("json"))


class FileSource(NamedTuple):
    """Some items of a folder: their paths without extension, and the paths of image and JSON."""

    stems: Sequence[tuple[Path, Mapping[str, Path]]]

    def items(self, rejects: Rejects) -> Iterator[GritItem]:
        """The items, read one at a time."""
        del rejects
        for stem, parts in self.stems:
            data = {part: path.read_bytes() for part, path in parts.items()}
            yield GritItem(stem.name, f"{stem}.json", data.get("image"), data.get("json"))


def find_sources(data: str, samples: int) -> tuple[Iterator[GritSource], list[str]]:
    """The sources of ``data``, one a shard, and the names of tars or folder for the settings.

    Args:
        data: a tar, a folder of tars or of files, a glob or braces of tars.
        samples: how many items of a folder's files go into a shard.

    Raises:
        ShardError: there is nothing to read.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir() or any(folder.glob("*.tar")):
        tars = expand_local_shards(data, "prepared")
        return map(TarSource, tars), [described_tar(Path(tar)) for tar in tars]
    if next(_in_folder(folder), None) is None:
        raise ShardError(f"the folder {data} holds neither tars nor images with a JSON each")
    files = (path for _, parts in _in_folder(folder) for path in parts.values())
    return map(FileSource, in_units(_in_folder(folder), samples)), [described_folder(folder, files)]


def _in_folder(folder: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """The stems of a folder's items, each with the paths of its image and JSON; then those of its folders."""
    files: dict[Path, dict[str, Path]] = {}
    folders = []
    for path in sorted(folder.iterdir()):
        stem, _, extension = path.name.rpartition(".")
        part = _part(extension)
        if path.is_dir():
            folders.append(path)
        elif part is not None and not path.name.endswith(_STATISTICS):
            files.setdefault(folder / stem, {})[part] = path
    yield from files.items()
    for path in folders:
        yield from _in_folder(path)


def _part(extension: str) -> str | None:
    """The part of an item that a file with this extension holds; None for none, as the captions in .txt."""
    extension = extension.lower()
    return "image" if extension in IMAGE_EXTENSIONS else "json" if extension == "json" else None


_SAVED = Rule(
    "among the JSON's fields (img2dataset saves it with --save_additional_columns)", lambda v: "noun_chunks" in v
)
_ENTRIES = Rule("a list of [start, end, x0, y0, x1, y1, score]", lambda v: isinstance(v, list))
_ENTRY = Rule(
    "[start, end, x0, y0, x1, y1, score], start and end whole numbers",
    lambda v: (
        isinstance(v, list) and len(v) == 7 and all(map(is_number, v)) and v[0] == int(v[0]) and v[1] == int(v[1])
    ),
)


class GritReader(NamedTuple):
    """Turns images with a JSON each into samples."""

    min_score: float
    job: PrepareJob

    def samples(self, source: GritSource, rejects: Rejects) -> Iterator[Sample]:
        """A sample an image. An image without caption, or one that is unusable, is counted with its boxes."""
        for item in source.items(rejects):
            record = _parse(item.json)
            if record is None:
                rejects.add("json missing" if item.json is None else "json unreadable", item.place)
                continue
            entries = _entries(record, item.place)
            try:
                yield self._sample(item, record, entries, rejects)
            except Rejected as error:
                rejects.add_image(error.reason, item.key, len(entries))

    def _sample(self, item: GritItem, record: dict[str, Any], entries: list[list[float]], rejects: Rejects) -> Sample:
        text, size = _caption(record, item.place), _size(record, item.place)
        if item.image is None:
            raise Rejected(IMAGE_MISSING)
        image, extractor = check_image(item.image, size), self.job.text_extractor
        confident = [entry for entry in entries if entry[6] >= self.min_score]
        caption, moved = tidy_caption(text, map(_span, confident), extractor, rejects, item.key)
        for entry in entries:
            if entry[6] < self.min_score:
                rejects.add("score below min_score", f"{item.key} {entry}")
        boxes = usable_boxes(
            confident, lambda e: image.upright(from_fractions(e[2:6])), rejects, lambda e: f"{item.key} {e}"
        )
        linked = [(box, [moved[span]] if (span := _span(entry)) in moved else []) for entry, box in boxes]
        grounded = GroundedImage(sample_key(item.key), item.key, self.job.shrink(image), caption, linked)
        return grounded_sample(grounded, extractor, source="grit", rejects=rejects)


def _parse(data: bytes | None) -> dict[str, Any] | None:
    try:
        record = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _entries(record: dict[str, Any], place: str) -> list[list[float]]:
    """The noun chunks, then the expressions, which may be missing; a parquet's null is an empty list."""
    _SAVED.check(f"{place}: 'noun_chunks'", sorted(record))
    entries = []
    for field in ("noun_chunks", "ref_exps"):
        values = [] if record.get(field) is None else record[field]
        _ENTRIES.check(f"{place}: '{field}'", values)
        for index, entry in enumerate(values):
            _ENTRY.check(f"{place}: '{field}[{index}]'", entry)
            entries.append(entry)
    return entries


def _caption(record: dict[str, Any], place: str) -> str:
    """The caption, "" where the web page had none."""
    text = record.get("caption")
    if text is None:
        return ""
    CAPTION.check(f"{place}: 'caption'", text)
    return text


def _size(record: dict[str, Any], place: str) -> tuple[float, float]:
    """The size to which boxes are relative: the image's before img2dataset resized it, where the JSON has it."""
    prefix = "original_" if record.get("original_width") is not None else ""
    for side in ("width", "height"):
        PIXELS.check(f"{place}: '{prefix}{side}'", record.get(prefix + side))
    return record[f"{prefix}width"], record[f"{prefix}height"]


def _span(entry: list[float]) -> Span:
    return Span(int(entry[0]), int(entry[1]))
