"""Image files and captions, from a list or a table, as training data without shards.

A caption is mended and cut into sentences and phrases as ``lightning prepare`` does, each time it is read: the same
texts, for some milliseconds of a loader's time. Shards are cut once, and are read faster from slow disks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, overload

from typing_extensions import override

from datamodules.batching.tokenizer import word_hash
from datamodules.formats.layout import LayoutError
from datamodules.granularity.cutting import cut_phrases
from datamodules.granularity.extractors import Extractor, ExtractorName, make_extractor
from datamodules.image_decoding import open_image
from datamodules.prepare.images import EXTENSIONS
from datamodules.prepare.records import cut_caption, path_key
from datamodules.prepare.table import checked_rows, join_captions
from datamodules.reading.shuffle_order import hash_key
from datamodules.sample import Sample, SampleError
from datamodules.shards.discovery import Shard, ShardError

Pairs: TypeAlias = str | Path | Sequence[tuple[str | Path, str]]

logger = logging.getLogger("grainclip")


class PairError(ShardError):
    """A list or table of pairs cannot be used; the message names it, the rule and the value."""


class Pair(NamedTuple):
    """An image file, and its caption: one text, or several paragraphs where its rows were joined.

    ``name`` is the image's path as the list or table has it, the same wherever the folder lies.
    """

    image: str
    caption: str
    name: str


@dataclass(frozen=True)
class PairReading:
    """The way in which ``data.pairs`` and ``data.val_pairs`` are read.

    Args:
        folder: the folder in which images' paths begin; None: that of the table, or the working folder for a list.
        val_share: the share of the images of ``pairs``, in [0, 1), that validation gets, with all their captions;
            chosen by hashes of the paths as the list or table has them, so that it is the same in every run.
        join_rows: make one sample of all pairs of an image; otherwise each is a sample of its own, and losses take its
            caption for a wrong answer to the others.
        skip_missing: leave out, and count, images whose file is missing; otherwise they stop the run.
        extractor: finds sentences and phrases: ``nltk``, ``rules`` or ``spacy``.
        spacy_model: the pipeline of ``spacy``.
        image_column, caption_column: the columns of a table.
        encoding: of a table's text; None: UTF-8, or what its byte order mark says.

    Raises:
        ValueError: a number is out of its range.
    """

    folder: str | None = None
    val_share: float = 0.0
    join_rows: bool = False
    skip_missing: bool = False
    extractor: ExtractorName = "nltk"
    spacy_model: str = "en_core_web_sm"
    image_column: str = "image"
    caption_column: str = "caption"
    encoding: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 1:
            raise ValueError(f"data.pair_reading.val_share must lie in [0, 1), got {self.val_share}")

    def read(self, pairs: Pairs, setting: str, *, quiet: bool = False) -> PairSource:
        """The samples of a list or of a table; ``setting`` is its name in messages. ``quiet``: no warnings.

        Raises:
            PairError: it cannot be read, has no pair, or an image is missing.
        """
        try:
            extractor = make_extractor(self.extractor, self.spacy_model)
            extractor.require()
            name, found = self._rows(pairs, setting)
        except (LayoutError, LookupError, ImportError, OSError, ValueError) as error:
            raise PairError(str(error).replace("--extractor", "--data.pair_reading.extractor")) from error
        if not found:
            raise PairError(f"{setting} must hold at least one pair of image and caption, got none")
        source = PairSource(name, self._present(found, name, quiet), extractor)
        if self.join_rows:
            return PairSource(name, self._joined(source.pairs), extractor)
        if not quiet:
            source.warn_repeated()
        return source

    def split(self, source: PairSource) -> tuple[PairSource, PairSource | None]:
        """Training and validation: ``val_share`` of the images, at least one, is taken out; None where it is 0.

        Raises:
            PairError: nothing would be left to train on.
        """
        if self.val_share == 0:
            return source, None
        images = sorted({pair.name for pair in source.pairs}, key=lambda name: (hash_key("split", name), name))
        count = max(1, round(self.val_share * len(images)))
        if count >= len(images):
            raise PairError(
                f"data.pair_reading.val_share {self.val_share} leaves no image of {source.name} to train on: it has "
                f"{len(images)}"
            )
        chosen = set(images[:count])
        return source.where(lambda pair: pair.name not in chosen), source.where(lambda pair: pair.name in chosen)

    def _rows(self, pairs: Pairs, setting: str) -> tuple[str, list[Pair]]:
        """The name of the list or table, and its pairs, each with its image's whole path."""
        if isinstance(pairs, (str, Path)):
            table = Path(pairs).expanduser()
            folder = table.parent if self.folder is None else Path(self.folder).expanduser()
            columns = {"image": self.image_column, "caption": self.caption_column}
            rows = checked_rows(table, self.encoding, columns, "--data.pair_reading.")
            return table.name, [_pair(folder, row[self.image_column], row[self.caption_column] or "") for row in rows]
        folder = Path(self.folder or "").expanduser()
        return setting, [_pair(folder, image, caption) for image, caption in check_pairs(pairs, setting)]

    def _present(self, pairs: list[Pair], name: str, quiet: bool) -> list[Pair]:
        exists = {image: _is_file(image) for image in dict.fromkeys(pair.image for pair in pairs)}
        missing = [image for image, is_there in exists.items() if not is_there]
        if missing and not self.skip_missing:
            shown = missing[0] if len(missing[0]) <= 60 else f"...{missing[0][-57:]}"
            raise PairError(
                f"{len(missing)} of the {len(exists)} images of {name} are missing, such as {shown}; "
                "data.pair_reading.folder is where their names begin, .skip_missing true leaves them out"
            )
        if len(missing) == len(exists):
            raise PairError(f"all {len(exists)} images of {name} are missing, such as {missing[0]}")
        if missing and not quiet:
            logger.warning("%s: left out %d images whose file is missing, such as %s", name, len(missing), missing[0])
        return [pair for pair in pairs if exists[pair.image]]

    @staticmethod
    def _joined(pairs: Sequence[Pair]) -> list[Pair]:
        """One pair for each image, its captions as paragraphs."""
        of_image: dict[str, list[Pair]] = {}
        for pair in pairs:
            of_image.setdefault(pair.image, []).append(pair)
        return [same[0]._replace(caption=join_captions([pair.caption for pair in same])) for same in of_image.values()]


def _pair(folder: Path, image: str | Path, caption: str) -> Pair:
    return Pair(str(folder / image), caption, str(Path(image)))


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # a name too long: where paths and captions have changed places
        return False


def check_pairs(pairs: object, setting: str) -> Sequence[tuple[str | Path, str]]:
    """Check that ``pairs`` is a sequence of (path, caption).

    Raises:
        PairError: naming the first pair that is none.
    """
    if not isinstance(pairs, Sequence):
        raise PairError(
            f"{setting} must be a list of (path, caption) or the path of a table, got {type(pairs).__name__}"
        )
    for number, pair in enumerate(pairs):
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
        if not (is_pair and isinstance(pair[0], (str, Path)) and isinstance(pair[1], str) and "\0" not in str(pair[0])):
            raise PairError(f"{setting}[{number}] must be (path, caption), two texts, got {pair!r:.60}")
    return pairs


class PairSource(Sequence[Shard]):
    """Image files and captions in place of a list of shards: one shard by name, whose samples are made when read."""

    def __init__(self, name: str, pairs: Sequence[Pair], extractor: Extractor) -> None:
        self.name, self.pairs, self.extractor = name, tuple(pairs), extractor
        raw = "\0".join(text for pair in self.pairs for text in (pair.name, pair.caption)).encode(
            "utf-8", "surrogatepass"
        )
        self.shard = Shard(f"{name} ({hashlib.sha256(raw).hexdigest()[:8]})", len(self.pairs))

    @override
    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Shard]: ...
    @override
    def __getitem__(self, index: int | slice) -> Shard | Sequence[Shard]:
        return [self.shard][index]

    @property
    def sizes(self) -> list[int]:
        """Samples of the only part."""
        return [len(self.pairs)]

    def reader(self) -> PairReader:
        """A reader of the pairs."""
        return PairReader(self)

    def where(self, wanted: Callable[[Pair], bool]) -> PairSource:
        """The source of the pairs that are ``wanted``."""
        return PairSource(self.name, [pair for pair in self.pairs if wanted(pair)], self.extractor)

    def repeated(self) -> int:
        """The number of pairs whose image stands in an earlier one."""
        return len(self.pairs) - len({pair.image for pair in self.pairs})

    def warn_repeated(self) -> None:
        """Warn where several samples are of one image."""
        if count := self.repeated():
            logger.warning(
                "%s: %d pairs name the image of an earlier one; each is a sample of its own, and losses take its "
                "caption for a wrong answer to the others; data.pair_reading.join_rows makes one sample of them",
                self.name, count,
            )  # fmt: skip


class PairReader:
    """Reads pairs by number: the file's bytes as they are, the caption cut into grains."""

    def __init__(self, source: PairSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.pairs)

    def name(self, number: int) -> tuple[str, str]:
        """The list's or table's name, and the image's file."""
        return self.source.name, self.source.pairs[number].image

    def id(self, number: int) -> int:
        """A sample's identity: of its image and its caption."""
        pair = self.source.pairs[number]
        text = f"{pair.name}\0{pair.caption}"  # half of a surrogate pair cannot be hashed
        return word_hash(text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))

    def read(self, number: int) -> dict[str, Any]:
        """A sample's members. Raises ``SampleError``: ``image missing``, ``image``, ``caption``."""
        image, caption, _ = self.source.pairs[number]
        try:
            data = Path(image).read_bytes()
        except OSError as error:
            raise SampleError("image missing", f"the image cannot be read: {error.strerror}") from error
        kind = open_image(data).format
        if kind not in EXTENSIONS:
            raise SampleError("image", f"images must be {', '.join(EXTENSIONS)}, got {kind}")
        text, sentences = cut_caption(caption, self.source.extractor)
        if not sentences:
            raise SampleError("caption", f"the caption has no word: {caption!r:.60}")
        phrases, stop_phrases = cut_phrases(text, sentences, self.source.extractor)
        sample = Sample(
            key=path_key(image),
            image=data,
            caption=text,
            sentences=tuple(sentences),
            phrases=phrases,
            stop_phrases=stop_phrases,
            source=self.source.name,
            extension=EXTENSIONS[kind],
        )
        try:
            return sample.members()
        except UnicodeEncodeError as error:
            raise SampleError("caption", "the caption holds half of a surrogate pair, which is no character") from error
