"""``wds:DIR``: any data set in CLIP_benchmark's WebDataset form, for classification or retrieval.

    DIR/classnames.txt  DIR/zeroshot_classification_templates.txt  DIR/dataset_type.txt
    DIR/test/nshards.txt  DIR/test/0.tar ...

A sample is an image (webp, png, jpg, jpeg) with ``cls``, the number of its class, or ``txt``, a caption a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from datamodules.shards.tar_members import IMAGE, Entry, group_members
from eval.data.cache import digest
from eval.data.find_file import user_folder
from eval.data.records import read_text
from eval.data.sources import TarMember
from eval.interfaces import EvalContext, Model, PathBenchmark, Result
from eval.protocols.image_text_retrieval import ImageTexts, retrieve
from eval.protocols.prompts import read_templates
from eval.protocols.zero_shot_classification import LabelledImages, classify_images

TYPES = ("classification", "retrieval")


class WebDataset(PathBenchmark):
    """The benchmark of one data set, under ``root`` or anywhere."""

    kind = "wds"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """The test split."""
        root, name = user_folder(run.root, self.path), self.head
        kind_file = root / "dataset_type.txt"
        kind = read_text(kind_file).strip() if kind_file.is_file() else "classification"
        if kind not in TYPES:
            raise ValueError(f"{kind_file} must be one of {', '.join(TYPES)}, got {kind!r}")
        pairs = list(_samples(root, "cls" if kind == "classification" else "txt"))
        checksum = {"test": digest(f"{image.name} {text}" for image, text in pairs)}
        images = [image for image, _ in pairs]
        if kind == "retrieval":
            captions = [text.splitlines() for _, text in pairs]
            for image, texts in zip(images, captions, strict=True):
                if not texts:
                    raise ValueError(f"{image.tar}: every image must have a caption, got none for {image.name}")
            protocol = "any of an image's own captions is right; published numbers R@1, R@5"
            return retrieve(name, model, run, ImageTexts(list(images), captions, checksum), protocol)
        if run.rerank is not None:
            raise ValueError(f"--rerank re-orders retrieval, which {name} is not: {kind_file} must say so, got {kind}")
        labels = []
        for image, text in pairs:
            if not text.strip().isdigit():
                raise ValueError(f"{image.tar}: {image.name}.cls must be a class's number, got {text!r}")
            labels.append(int(text))
        classes = read_text(root / "classnames.txt").splitlines()
        templates = read_templates(root / "zeroshot_classification_templates.txt")
        data = LabelledImages(list(images), labels, classes, checksum)
        return classify_images(name, model, run, data, templates, "the data set's own class names and prompts")


def _samples(root: Path, member: str) -> Iterator[tuple[TarMember, str]]:
    """Images and their text, in the shards' order."""
    path = root / "test" / "nshards.txt"
    count = read_text(path).strip()
    if not count.isdigit() or int(count) < 1:
        raise ValueError(f"{path} must be the number of shards, got {count!r}")
    for number in range(int(count)):
        yield from _of_shard(root / "test" / f"{number}.tar", member)


def _of_shard(shard: Path, member: str) -> Iterator[tuple[TarMember, str]]:
    if not shard.is_file():
        raise FileNotFoundError(f"the shard {shard} does not exist; nshards.txt beside it counts it")
    images: dict[str, TarMember] = {}
    texts: dict[str, str] = {}
    with shard.open("rb") as file:
        entries, _, problem = group_members(file, (member,), (IMAGE, member))
        if problem:
            raise ValueError(f"{shard} is cut short or no tar: {problem}")
        for entry in entries:
            if IMAGE in entry.spans:
                images[entry.key] = TarMember(shard, f"{shard.stem}/{entry.key}", *entry.spans[IMAGE])
            if member in entry.spans:
                texts[entry.key] = _text(file, entry, member, shard)
    if images.keys() != texts.keys():
        odd = sorted(images.keys() ^ texts.keys())[0]
        raise ValueError(f"{shard}: every sample must have an image and .{member}, got one of them for {odd!r}")
    for key, image in images.items():
        yield image, texts[key]


def _text(file: IO[bytes], entry: Entry, member: str, shard: Path) -> str:
    offset, length = entry.spans[member]
    file.seek(offset)
    try:
        return file.read(length).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shard}: {entry.key}.{member} is not UTF-8: {error}") from error
