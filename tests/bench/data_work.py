"""Benchmarks of reading data: by index against webdataset, one resize against the usual transform, whole loaders.

All on one core in one process; each work goes over the same number of samples on both sides.
"""

from __future__ import annotations

import io
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

READ, DECODED, LOADED = 2000, 96, 256
PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_tiny"
FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # held until the process ends


def photographs(number: int, short_side: int) -> Iterator[bytes]:
    """JPEGs whose shorter side has so many pixels: real photographs where the reference data is there, else noise."""
    files = sorted(PHOTOGRAPHS.rglob("*.jpg"))[:20]
    rng = np.random.default_rng(0)
    sources = [Image.open(f).convert("RGB") for f in files]
    sources = sources or [Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)) for _ in range(20)]
    encoded = []
    for image in sources:
        scale = short_side / min(image.size)
        file = io.BytesIO()
        size = round(image.width * scale), round(image.height * scale)
        image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    for n in range(number):
        yield encoded[n % len(encoded)]


def shards(images: Iterator[bytes], distinct: int, tokens: bool = False) -> list[Path]:
    """Indexed tars of 500 samples with ``images`` and so many ``distinct`` real texts, or short ones (0).

    ``tokens``: their token ids are stored too.
    """
    from datamodules.batching.stored_tokens import with_tokens
    from datamodules.sample import Phrase, Sample
    from datamodules.shards.tar_index import write_index
    from datamodules.shards.writer import write_shards
    from tests.bench.texts import captions

    FOLDERS.append(tempfile.TemporaryDirectory())
    grains = captions(distinct)[1] if distinct else []

    def samples() -> Iterator[Sample]:
        for n, image in enumerate(images):
            if not distinct:
                yield Sample(f"{n:06d}", image, f"Picture number {n}.")
                continue
            caption, sentences, phrases = grains[n % len(grains)]
            found = [Phrase(p, 0, caption.index(p), caption.index(p) + len(p)) for p in phrases]
            yield Sample(f"{n:06d}", image, caption, tuple(sentences), tuple(found))

    folder = Path(FOLDERS[-1].name)
    write_shards(map(with_tokens, samples()) if tokens else samples(), folder, source="bench", samples_per_shard=500)
    paths = sorted(folder.glob("*.tar"))
    for path in paths:
        write_index(path)
    return paths


def reading(side: str) -> Callable[[], None]:
    """``READ`` samples of 100 kB each, members as bytes."""
    rng = np.random.default_rng(0)
    head = next(photographs(1, 64))
    paths = shards((head + rng.bytes(100_000 - len(head)) for _ in range(READ)), 0)
    if side == "old":
        return lambda: _read_by_webdataset(paths)
    return lambda: _read_by_index(paths)


def _read_by_webdataset(paths: list[Path]) -> None:
    import webdataset

    found = sum(1 for _ in webdataset.WebDataset([str(p) for p in paths], shardshuffle=False))
    assert found == READ


def _read_by_index(paths: list[Path]) -> None:
    from datamodules.reading.shuffle_order import ShuffleOrder
    from datamodules.shards.discovery import find_shards
    from datamodules.shards.reader import IndexedShards, TarReader

    source = IndexedShards.of(find_shards(paths))
    reader, order = TarReader(source), ShuffleOrder(source.sizes, 0, 64)
    for position in range(READ):
        members = reader.read(order.at(position)[1])
        assert len(members["jpg"]) > 90_000


def decoding(side: str, short_side: int) -> Callable[[], None]:
    """``DECODED`` images to 224 px, a random 90 to 100 % of each."""
    import random

    import torch
    from torchvision import transforms

    from datamodules.batching.image_transforms import CLIP_MEAN, CLIP_STD, RandomCrop
    from datamodules.image_decoding import open_image

    images = list(photographs(DECODED, short_side))
    bicubic = transforms.InterpolationMode.BICUBIC
    usual = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.9, 1.0), interpolation=bicubic),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    ours, boxes = RandomCrop((0.9, 1.0)), np.zeros((0, 4))

    def work() -> None:
        torch.manual_seed(0)
        rng = random.Random(0)
        for data in images:
            if side == "old":
                usual(Image.open(io.BytesIO(data)).convert("RGB"))
            else:
                ours(open_image(data), boxes, 224, rng)

    return work


def loading(side: str, short_side: int, tokens: bool = False) -> Callable[[], None]:
    """Batches of 64 from ``LOADED`` samples: webdataset's pipeline with 1 caption, or ours with all texts.

    ``tokens``: ours are stored as token ids.
    """
    paths = shards(photographs(LOADED, short_side), LOADED, tokens)
    return _open_clip_style(paths) if side == "old" else _ours(paths)


def _open_clip_style(paths: list[Path]) -> Callable[[], None]:

    import open_clip
    import webdataset
    from torchvision import transforms

    from datamodules.batching.image_transforms import CLIP_MEAN, CLIP_STD

    tokenizer = open_clip.get_tokenizer("ViT-B-16", context_length=248)
    image = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.9, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )

    def work() -> None:
        pipeline = (
            webdataset.WebDataset([str(p) for p in paths], shardshuffle=False)
            .decode("pilrgb", handler=webdataset.warn_and_continue)
            .rename(image="jpg", text="json")
            .map_dict(image=image, text=lambda record: tokenizer(record["caption"])[0])
            .to_tuple("image", "text")
            .batched(64)
        )
        assert sum(len(images) for images, _ in pipeline) == LOADED

    return work


def _ours(paths: list[Path]) -> Callable[[], None]:
    from datamodules.batching import tokenizer

    reader = _reader(paths, 224)

    def work() -> None:
        for cached in (tokenizer._encode_phrase, tokenizer._encode_caption):
            cached.cache_clear()  # every run meets its texts for the first time
        assert sum(len(batch.images) for batch in reader.loader(0, LOADED // 64, 0)) == LOADED

    return work


def _reader(paths: list[Path], size: int) -> Any:
    from datamodules.batching.collate import SamplePreprocessor
    from datamodules.batching.image_transforms import RandomCrop
    from datamodules.batching.text_sampling import GrainSampling
    from datamodules.batching.tokenizer import Tokenizer
    from datamodules.reading.reader_settings import ReaderSettings
    from datamodules.reading.select_reader import training_batches
    from datamodules.shards.discovery import find_shards

    prepare = SamplePreprocessor(size, RandomCrop((0.9, 1.0)), GrainSampling(5, 30), Tokenizer(248), random_texts=True)
    return training_batches([find_shards(paths)], None, ReaderSettings(prepare, 64), 64, 1000)


def memory(samples: int = 10_000) -> list[tuple[int, float]]:
    """(samples read, MiB that the process then has) as one process loads ``samples`` samples with all texts."""
    from datamodules.sample import Sample

    paths = shards(photographs(2000, 96), 2000)
    reader = _reader(paths, 32)
    for number in range(len(reader.readers[0])):  # the tokenizer's cache is full, or has all there is, before it counts
        sample = Sample.from_members(reader.readers[0].read(number))
        for text in (sample.caption, *sample.sentences, *(phrase.text for phrase in sample.phrases)):
            reader.settings.prepare.tokenizer.whole(text)
    points = []
    for number, _ in enumerate(reader.loader(0, samples // 64, 0), 1):
        if number % 8 == 0:
            points.append((number * 64, _resident()))
    return points


def _resident() -> float:
    """MiB in memory now; the highest so far where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
