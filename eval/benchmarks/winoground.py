"""Winoground (Thrush et al., CVPR 2022): two images, two captions of the same words; which belongs to which?

Read from the release (gated), in either of its forms; Parquet needs pyarrow, ``grainclip[parquet]``::

    winoground/data/examples.jsonl  winoground/data/images/NAME.png
    winoground/data/test-*.parquet                                     (the images are in it)

Of 400 examples, the share whose captions are right for both images (text), whose images are right for both captions
(image), and both (group). A tie is a miss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.formats.layout import NAME, PATH, Rule, checked
from eval.data.find_file import first_there, place
from eval.data.image_files import present
from eval.data.image_preprocessing import centre_crop
from eval.data.records import file_sha256, read_records
from eval.data.sources import Encoded, ImageFile, Source
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.embed import embed_images, embed_texts
from eval.protocols.image_text_retrieval import text_counts
from eval.results.per_item import Items, Mean, parquet

IMAGES, CAPTIONS = ("image_0", "image_1"), ("caption_0", "caption_1")
TEXTS = dict.fromkeys(CAPTIONS, NAME)
ENCODED = Rule("an image, {bytes, path}", lambda v: isinstance(v, dict) and isinstance(v.get("bytes"), bytes))
MEASURES = ("text", "image", "group")


@dataclass
class Examples:
    """Numbers of the examples, two images and two captions of each one after the other; the files read with their
    SHA-256; what was left out.
    """

    numbers: Sequence[int]
    images: list[Source]
    texts: list[str]
    files: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)


def winoground(model: Model, run: EvalContext) -> Result:
    """400 examples."""
    fit, data = run.fit or centre_crop, _read(run)
    seen = embed_images(model, run, data.images, fit, "winoground").unflatten(0, (-1, 2))
    said = embed_texts(model, run, data.texts, "winoground").unflatten(0, (-1, 2))
    score = (said[:, :, None] * seen[:, None]).sum(3)  # example, caption, image
    text = (score[:, 0, 0] > score[:, 1, 0]) & (score[:, 1, 1] > score[:, 0, 1])
    image = (score[:, 0, 0] > score[:, 0, 1]) & (score[:, 1, 1] > score[:, 1, 0])
    columns = dict(zip(MEASURES, (text, image, text & image), strict=True))
    counts = data.counts + text_counts(model, data.texts)
    found = {f"winoground/{name}_accuracy": hits.double().mean().item() for name, hits in columns.items()}
    settings = {
        "protocol": "Winoground: text, image and group score; a tie is a miss",
        "image": f"{fit.__name__}, {model.image_size}×{model.image_size}",
        "context length": model.context_length,
        "files": data.files,
        "counts": dict(counts),
    }
    table = Items(
        {"example": list(data.numbers), "caption_0": data.texts[::2], "caption_1": data.texts[1::2]}
        | {n: c.tolist() for n, c in columns.items()},
        {f"winoground/{name}_accuracy": Mean(name) for name in MEASURES},
        "example",
    )
    found["winoground/questions"] = float(len(data.numbers))
    return Result(found, settings, dict(counts), {"winoground": table})


def _read(run: EvalContext) -> Examples:
    folders = ("winoground/data", "winoground", "data", "")
    shards = next((found for f in folders if (found := sorted((run.root / f).glob("test-*.parquet")))), [])
    lines = [f"{folder}/examples.jsonl".lstrip("/") for folder in folders]
    if shards and not any((run.root / line).is_file() for line in lines):
        return _of_parquet(shards)
    return _of_lines(place(run.root, *lines), run)


def _of_parquet(shards: list[Path]) -> Examples:
    _, reader = parquet()
    images: list[Source] = []
    texts: list[str] = []
    for shard in shards:
        try:
            table = reader.read_table(shard, columns=[*IMAGES, *CAPTIONS]).to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's own are of these
            raise ValueError(f"{shard} is no Parquet file with {', '.join((*IMAGES, *CAPTIONS))}: {error}") from error
        for row in checked(shard, "rows", table, TEXTS | dict.fromkeys(IMAGES, ENCODED)):
            number = len(texts) // 2
            images += [Encoded(f"{number} {side}", row[side]["bytes"]) for side in IMAGES]
            texts += [row[side] for side in CAPTIONS]
    if not texts:
        raise ValueError(f"{shards[0]} must hold examples, got none")
    return Examples(range(len(texts) // 2), images, texts, {shard.name: file_sha256(shard) for shard in shards})


def _of_lines(path: Path, run: EvalContext) -> Examples:
    records = read_records(path, TEXTS | dict.fromkeys(IMAGES, PATH))
    counts: Counter[str] = Counter()
    listed = [(_image(path.parent, r[side]), (i, side)) for i, r in enumerate(records.rows) for side in IMAGES]
    there = set(present(listed, path, run.skip_missing, counts))
    kept = [i for i in range(len(records.rows)) if all((i, side) in there for side in IMAGES)]
    if not kept:
        raise ValueError(f"{path}: no example is left; left out: {dict(counts)}")
    files = {key: file for file, key in listed}
    images: list[Source] = [ImageFile(files[i, side], f"{i} {side}") for i in kept for side in IMAGES]
    texts = [records.rows[i][side] for i in kept for side in CAPTIONS]
    return Examples(kept, images, texts, records.files, counts)


def _image(folder: Path, name: str) -> Path:
    return first_there([folder / f / f"{name}{end}" for f in ("images", "") for end in ("", ".png", ".jpg")])
