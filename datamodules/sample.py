"""One sample of a shard: an image and its texts at every grain, as stored on disk.

A shard is an ordinary WebDataset tar with two members a sample: ``KEY.jpg`` (or png, webp) and ``KEY.json``; a third,
``KEY.tokens``, may keep the texts' token ids::

    {"caption": "A red cube. It stands left of a dog.", "summary": "...",          # summary is optional
     "sentences": ["A red cube.", "It stands left of a dog."],
     "phrases": [{"text": "A red cube", "sentence": 0, "start": 0, "end": 10, "lemma": "cube"}],
     "stop_phrases": [...],                                                                 # alike; where there are any
     "regions": [{"box": [0.1, 0.2, 0.5, 0.6], "phrase": 0, "label": "cube"}],
     "choices": [{"region": 0, "level": "hard", "texts": ["a red cube", "a blue cube"]}],  # held-out sets only
     "source": "scenes", "version": 1}

Grains are cut once, when shards are written; training never runs a parser. ``start`` and ``end`` are characters of
``caption``; a box is ``[x0, y0, x1, y1]`` in fractions of the image's sides; ``choices`` are multiple-choice questions
about a region whose first text is the right one (FG-OVD's form). ``stop_phrases`` say nothing of what the image shows
("the image", "the left side"); they stand apart so that only code that asks for them reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from typing_extensions import TypeIs

Box: TypeAlias = tuple[float, float, float, float]  # x0, y0, x1, y1

SCHEMA_VERSION = 1
_TOO_LARGE = 1e9  # for a fraction, however wrong; NaN is not below it either
_NOT_IN_JSON = ("key", "image", "extension", "tokens")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class SampleError(ValueError):
    """A sample breaks the schema.

    ``reason`` is a short constant name by which skips are counted (``"json"``, ``"box"``...); the message says the
    field, the rule and the value.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Phrase:
    """A piece of the caption: ``caption[start:end] == text``.

    ``sentence`` is the index of the sentence that holds it, ``lemma`` its head's base form ("" where unknown).
    """

    text: str
    sentence: int
    start: int
    end: int
    lemma: str = ""


@dataclass(frozen=True)
class Region:
    """A box ``(x0, y0, x1, y1)`` in fractions of the image's width and height, and what it shows.

    A box that belongs to several phrases stands in several regions with the same numbers.
    """

    box: Box
    phrase: int | None = None
    label: str | None = None


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question: which of ``texts`` describes ``region``? The first one does."""

    region: int
    level: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """An image with its texts at every grain. ``image`` holds the encoded bytes, ``extension`` their format."""

    key: str
    image: bytes
    caption: str
    sentences: tuple[str, ...] = ()
    phrases: tuple[Phrase, ...] = ()
    stop_phrases: tuple[Phrase, ...] = ()
    regions: tuple[Region, ...] = ()
    choices: tuple[Choice, ...] = ()
    summary: str | None = None
    source: str = ""
    version: int = SCHEMA_VERSION
    extension: str = "jpg"
    tokens: bytes = b""  # token ids of its texts, where they are stored: datamodules.batching.stored_tokens

    def members(self) -> dict[str, Any]:
        """The argument of ``webdataset.ShardWriter.write``: ``{"__key__", "jpg", "json"}``."""
        omitted = (*_NOT_IN_JSON, *(() if self.stop_phrases else ("stop_phrases",)))
        record = {k: v for k, v in vars(self).items() if k not in omitted and v is not None}
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=vars)
        members = {"__key__": self.key, self.extension: self.image, "json": text.encode()}
        return members | ({"tokens": self.tokens} if self.tokens else {})

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Sample:
        """Read and check a sample as a tar reader groups it (``{"__key__": ..., "jpg": bytes, "json": bytes}``).

        Raises ``SampleError`` with one of the reasons ``image missing``, ``json missing``, ``json``, ``caption``,
        ``sentence``, ``phrase``, ``box``, ``choice``, ``version``.
        """
        extension = next((e for e in IMAGE_EXTENSIONS if e in members), None)
        if extension is None:
            names = sorted(k for k in members if not k.startswith("__"))
            raise SampleError("image missing", f"no image member ({', '.join(IMAGE_EXTENSIONS)}) beside {names}")
        if "json" not in members:
            raise SampleError("json missing", "no json member beside the image; write shards with `lightning prepare`")
        record = _parse(members["json"])
        caption = _text("caption", "caption", record.get("caption"))
        version = record.get("version", SCHEMA_VERSION)
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise SampleError("version", f"'version' {version!r} is newer than this reader's {SCHEMA_VERSION}")
        sentences = tuple(_text("sentence", "sentences", s) for s in _list(record, "sentences", "sentence"))
        phrases, stop_phrases = (
            tuple(_phrase(p, caption, len(sentences)) for p in _list(record, field, "phrase"))
            for field in ("phrases", "stop_phrases")
        )
        regions = tuple(_region(r, len(phrases)) for r in _list(record, "regions", "box"))
        choices = tuple(_choice(c, len(regions)) for c in _list(record, "choices", "choice"))
        summary = record.get("summary")
        return cls(
            key=str(members.get("__key__", "")),
            image=members[extension],
            caption=caption,
            sentences=sentences,
            phrases=phrases,
            stop_phrases=stop_phrases,
            regions=regions,
            choices=choices,
            summary=None if summary is None else _text("caption", "summary", summary),
            source=str(record.get("source", "")),
            version=version,
            extension=extension,
            tokens=members.get("tokens", b""),
        )


def _parse(raw: bytes | str) -> dict[str, Any]:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SampleError("json", f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise SampleError("json", f"the JSON must be an object, got {type(record).__name__}")
    return record


def _list(record: Mapping[str, Any], field: str, reason: str) -> list[Any]:
    value = record.get(field, [])
    if not isinstance(value, list):
        raise SampleError(reason, f"'{field}' must be a list, got {type(value).__name__}")
    return value


def _text(reason: str, field: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SampleError(reason, f"'{field}' must hold texts that are not empty, got {value!r}")
    if not _is_unicode(value):
        raise SampleError(reason, f"'{field}' holds half of a surrogate pair, which is no character: {value!r}")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_index(value: object, size: int) -> TypeIs[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size


def _phrase(value: object, caption: str, sentences: int) -> Phrase:
    if not isinstance(value, dict):
        raise SampleError("phrase", f"a phrase must be an object, got {value!r}")
    text, start, end = _text("phrase", "phrases.text", value.get("text")), value.get("start"), value.get("end")
    if not (_is_index(start, len(caption)) and _is_index(end, len(caption) + 1) and start < end):
        raise SampleError(
            "phrase", f"phrase {text!r} spans [{start}, {end}), outside the caption of {len(caption)} characters"
        )
    if caption[start:end] != text:
        raise SampleError("phrase", f"phrase {text!r} is not caption[{start}:{end}], which is {caption[start:end]!r}")
    sentence = value.get("sentence")
    if not _is_index(sentence, sentences):
        raise SampleError("phrase", f"phrase {text!r} names sentence {sentence!r} of {sentences}")
    lemma = value.get("lemma", "")
    if not isinstance(lemma, str) or not _is_unicode(lemma):
        raise SampleError("phrase", f"phrase {text!r} has the lemma {lemma!r}, which is no text")
    return Phrase(text, sentence, start, end, lemma)


def _is_four_numbers(value: object) -> TypeIs[list[float] | tuple[float, ...]]:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 4
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < _TOO_LARGE for v in value)
    )


def _box(box: object) -> Box:
    """A box as four floats, or ``SampleError``: it must have an area and lie inside the image (0..1)."""
    if not _is_four_numbers(box):
        raise SampleError("box", f"a box must be [x0, y0, x1, y1] in fractions of the image, got {box!r}")
    x0, y0, x1, y1 = (float(v) for v in box)
    if not (x0 >= 0 and x1 <= 1 and y0 >= 0 and y1 <= 1):
        raise SampleError("box", f"box {[x0, y0, x1, y1]} leaves the image; boxes are fractions between 0 and 1")
    if not (x0 < x1 and y0 < y1):
        raise SampleError("box", f"box {[x0, y0, x1, y1]} has no area: x0 < x1 and y0 < y1 are needed")
    return x0, y0, x1, y1


def _region(value: object, phrases: int) -> Region:
    if not isinstance(value, dict):
        raise SampleError("box", f"a region must be an object, got {value!r}")
    phrase, label = value.get("phrase"), value.get("label")
    if phrase is not None and not _is_index(phrase, phrases):
        raise SampleError("box", f"a region names phrase {phrase!r} of {phrases}")
    return Region(_box(value.get("box")), phrase, None if label is None else _text("box", "regions.label", label))


def _choice(value: object, regions: int) -> Choice:
    if not isinstance(value, dict):
        raise SampleError("choice", f"a choice must be an object, got {value!r}")
    region, texts = value.get("region"), value.get("texts")
    if not _is_index(region, regions):
        raise SampleError("choice", f"a choice names region {region!r} of {regions}")
    if not isinstance(texts, list) or len(texts) < 2:
        raise SampleError("choice", f"a choice needs a list of at least two texts, got {texts!r}")
    return Choice(
        region,
        _text("choice", "choices.level", value.get("level")),
        tuple(_text("choice", "choices.texts", t) for t in texts),
    )
