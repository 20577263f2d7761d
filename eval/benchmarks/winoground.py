"""Winoground (Thrush et al., CVPR 2022): two images, and two captions of the same words to match.

Read from the release (gated), in either of its forms; Parquet needs pyarrow, ``grainclip[parquet]``::

    winoground/data/examples.jsonl  winoground/data/images/NAME.png
    winoground/data/test-*.parquet                                     (the images are in it)

Of 400 examples, the share whose right caption scores higher for both images (text), whose right image scores higher for
both captions (image), and both (group). A tie is a miss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.formats.layout import NAME, PATH, Rule, checked
from eval.data.find_file import find_path, first_file, with_files
from eval.data.image_preprocessing import centre_crop, fit_setting
from eval.data.records import file_sha256, read_records
from eval.data.sources import EncodedImage, ImageFile, ImageSource
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
    """Numbers of the examples; the two images and the two captions of each, in order; the files read with their
    SHA-256; counts of what was left out.
    """

    numbers: Sequence[int]
    images: list[ImageSource]
    texts: list[str]
    files: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)


def winoground(model: Model, run: EvalContext) -> Result:
    """400 examples."""
    fit, data = run.fit or centre_crop, _read(run)
    images = embed_images(model, run, data.images, fit, "winoground").unflatten(0, (-1, 2))
    texts = embed_texts(model, run, data.texts, "winoground").unflatten(0, (-1, 2))
    score = (texts[:, :, None] * images[:, None]).sum(3)  # example, caption, image
    text_hits = (score[:, 0, 0] > score[:, 1, 0]) & (score[:, 1, 1] > score[:, 0, 1])
    image_hits = (score[:, 0, 0] > score[:, 0, 1]) & (score[:, 1, 1] > score[:, 1, 0])
    columns = dict(zip(MEASURES, (text_hits, image_hits, text_hits & image_hits), strict=True))
    counts = data.counts + text_counts(model, data.texts)
    numbers = {f"winoground/{name}_accuracy": hits.double().mean().item() for name, hits in columns.items()}
    settings = {
        "protocol": "Winoground: text, image and group score; a tie is a miss",
        "image": fit_setting(fit, model.image_size),
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
    numbers["winoground/questions"] = float(len(data.numbers))
    return Result(numbers, settings, dict(counts), {"winoground": table})


def _read(run: EvalContext) -> Examples:
    folders = ("winoground/data", "winoground", "data", "")
    shards = next((files for f in folders if (files := sorted((run.root / f).glob("test-*.parquet")))), [])
    lines = [f"{folder}/examples.jsonl".lstrip("/") for folder in folders]
    if shards and not any((run.root / line).is_file() for line in lines):
        return _of_parquet(shards)
    return _of_lines(find_path(run.root, *lines), run)


def _of_parquet(shards: list[Path]) -> Examples:
    _, reader = parquet()
    images: list[ImageSource] = []
    texts: list[str] = []
    for shard in shards:
        try:
            table = reader.read_table(shard, columns=[*IMAGES, *CAPTIONS]).to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses
            raise ValueError(f"{shard} is no Parquet file with {', '.join((*IMAGES, *CAPTIONS))}: {error}") from error
        for row in checked(shard, "rows", table, TEXTS | dict.fromkeys(IMAGES, ENCODED)):
            number = len(texts) // 2
            images += [EncodedImage(f"{number} {side}", row[side]["bytes"]) for side in IMAGES]
            texts += [row[side] for side in CAPTIONS]
    if not texts:
        raise ValueError(f"{shards[0]} must hold examples, got none")
    return Examples(range(len(texts) // 2), images, texts, {shard.name: file_sha256(shard) for shard in shards})


def _of_lines(path: Path, run: EvalContext) -> Examples:
    records = read_records(path, TEXTS | dict.fromkeys(IMAGES, PATH))
    counts: Counter[str] = Counter()
    items = [(_image(path.parent, r[side]), (i, side)) for i, r in enumerate(records.rows) for side in IMAGES]
    present = set(with_files(items, path, run.skip_missing, counts))
    examples = [i for i in range(len(records.rows)) if all((i, side) in present for side in IMAGES)]
    if not examples:
        raise ValueError(f"{path}: no example is left; left out: {dict(counts)}")
    files = {key: file for file, key in items}
    images: list[ImageSource] = [ImageFile(files[i, side], f"{i} {side}") for i in examples for side in IMAGES]
    texts = [records.rows[i][side] for i in examples for side in CAPTIONS]
    return Examples(examples, images, texts, records.files, counts)


def _image(folder: Path, name: str) -> Path:
    return first_file([folder / f / f"{name}{end}" for f in ("images", "") for end in ("", ".png", ".jpg")])
