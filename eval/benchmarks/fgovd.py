"""FG-OVD (Bianchi et al., CVPR 2024): which of up to eleven captions describes this box of COCO?

The wrong ones differ in one attribute (hard), two (medium), three (easy), or describe another object (trivial); or they
differ in colour, material, pattern or transparency. Read from the official files or from FG-CLIP's, whichever exist::

    benchmarks/{1_attributes,2_attributes,3_attributes,shuffle_negatives,color,...}.json
    fgovd/{h_attributes,m_attributes,e_attributes,shuffle_negatives}_llava.jsonl
    val2017/*.jpg  train2017/*.jpg                     (both folders are needed)

Two protocols: ``fgovd`` is FG-CLIP's and β-CLIP's, RoIAlign over the dense map of the squashed image; ``fgovd_crop``
embeds a crop of the box. Accuracy is over all boxes, however many wrong captions they have. Every caption of FG-CLIP's
files ends in a full stop; the official ones lack some, which are added.

In the official files a caption is a category, and a box gives the ids of its right caption and its wrong ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from datamodules.formats.layout import IMAGE, LIST, NAME, PATH, SIDE, TEXTS, WHOLE, XYWH, AnnotationFile, Rule
from eval.data.find_file import find_path, first_file, user_file, with_files
from eval.data.image_preprocessing import Fit, centre_crop, fit_setting, squash, whole_fit
from eval.data.records import read_records
from eval.data.sources import Crop, ImageFile
from eval.interfaces import EvalContext, Model, PathBenchmark, Result
from eval.metrics.ranking import Ties
from eval.protocols.box_classification import fraction_box
from eval.protocols.embed import embed_images
from eval.protocols.image_text_retrieval import text_counts
from eval.protocols.multiple_choice import Answers, Question, answer_items, answer_numbers, answer_questions
from eval.protocols.regions import Box, Boxes, embed_regions

LEVELS = {
    "hard": ("1_attributes", "h_attributes_llava"),
    "medium": ("2_attributes", "m_attributes_llava"),
    "easy": ("3_attributes", "e_attributes_llava"),
    "trivial": ("shuffle_negatives", "shuffle_negatives_llava"),
}
ATTRIBUTES = {name: (name, f"{name}_llava") for name in ("color", "material", "pattern", "transparency")}


class FgovdProtocol(NamedTuple):
    """A way to embed described boxes, one vector each."""

    description: str
    fit: Fit
    embed: Callable[[Model, EvalContext, list[DescribedBox], list[Box], Fit, str], Float[Tensor, "R D"]]


def fgovd(model: Model, run: EvalContext) -> Result:
    """The four levels, RoIAlign over the dense map."""
    return _levels("fgovd", LEVELS, REGION, model, run)


def fgovd_crop(model: Model, run: EvalContext) -> Result:
    """The four levels, crops of the boxes."""
    return _levels("fgovd_crop", LEVELS, CUT_OUT, model, run)


def fgovd_attributes(model: Model, run: EvalContext) -> Result:
    """Colour, material, pattern, transparency, RoIAlign over the dense map."""
    return _levels("fgovd_attributes", ATTRIBUTES, REGION, model, run)


def fgovd_attributes_crop(model: Model, run: EvalContext) -> Result:
    """Colour, material, pattern, transparency, crops of the boxes."""
    return _levels("fgovd_attributes_crop", ATTRIBUTES, CUT_OUT, model, run)


class FgovdFile(PathBenchmark):
    """``fgovd:FILE``: one file of either format, under the current folder or ``root``; its images under ``root``."""

    kind = "fgovd"

    @property
    @override
    def head(self) -> str:
        """With the file's name without its ending."""
        return f"fgovd/{Path(self.path).stem}"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """RoIAlign over the dense map."""
        return _run("fgovd", {Path(self.path).stem: user_file(run.root, self.path)}, REGION, model, run)


def _by_regions(
    model: Model, run: EvalContext, described_boxes: list[DescribedBox], boxes: list[Box], fit: Fit, label: str
) -> Float[Tensor, "R D"]:
    """Each image is embedded once, whatever the number of its boxes."""
    groups: dict[ImageFile, list[int]] = {}
    for number, box in enumerate(described_boxes):
        groups.setdefault(box.image, []).append(number)
    pooling = Boxes([[boxes[n] for n in numbers] for numbers in groups.values()], list(groups), fit)
    rows = embed_regions(model, run, list(groups), fit, pooling, label)
    order = torch.tensor([n for numbers in groups.values() for n in numbers])
    return torch.empty_like(rows).index_copy(0, order, rows)


def _by_crops(
    model: Model, run: EvalContext, described_boxes: list[DescribedBox], boxes: list[Box], fit: Fit, label: str
) -> Float[Tensor, "R D"]:
    del boxes  # in fractions; crops are cut at whole pixels
    crops = []
    for box in described_boxes:
        x, y, width, height = box.box
        crops.append(Crop(box.image, (math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height))))
    return embed_images(model, run, crops, fit, label)


REGION = FgovdProtocol(
    "FG-CLIP: RoIAlign 1×1 over the dense map, a tie is a hit, boxes all alike; published number accuracy",
    squash,
    _by_regions,
)
CUT_OUT = FgovdProtocol("the box cut out at whole pixels, image embedding, a tie is a hit", centre_crop, _by_crops)


def _levels(
    name: str, levels: dict[str, tuple[str, str]], protocol: FgovdProtocol, model: Model, run: EvalContext
) -> Result:
    files = {}
    for level, (official, fg_clip) in levels.items():
        heads = (("benchmarks/", official, ".json"), ("fgovd/", fg_clip, ".jsonl"))
        paths = [f"{folder}{stem}{end}" for folder, stem, end in heads]
        files[level] = find_path(
            run.root, *paths, *(f"{stem}{end}" for _, stem, end in heads), f"fgovd/{official}.json"
        )
    return _run(name, files, protocol, model, run)


def _run(name: str, files: dict[str, Path], protocol: FgovdProtocol, model: Model, run: EvalContext) -> Result:
    fit = whole_fit(name, run.fit, protocol.fit) if protocol is REGION else run.fit or protocol.fit
    counts: Counter[str] = Counter()
    numbers, tables, checksums, levels = {}, {}, {}, {}
    for level, file in files.items():
        read = read_official if file.suffix == ".json" else read_fg_clip
        described_boxes, checksums[file.name] = read(file, run.root)
        described_boxes, boxes = _usable(described_boxes, file, run, counts)
        rows = protocol.embed(model, run, described_boxes, boxes, fit, f"{name} {level}")
        questions = [Question(row, box.texts, box.name) for row, box in enumerate(described_boxes)]
        answers = answer_questions(model, run, rows, questions, f"{name} {level}")
        head, images = f"{name}/{level}", [box.image.name for box in described_boxes]
        counts += text_counts(model, [text for box in described_boxes for text in box.texts])
        numbers |= answer_numbers(head, answers, Ties.OPTIMISTIC) | _mean_rank(head, answers)
        levels[level] = {"boxes": len(described_boxes), "images": len(set(images))}
        tables[head] = answer_items(head, questions, answers, Ties.OPTIMISTIC, images)
    settings: dict[str, Any] = {
        "protocol": protocol.description,
        "image": fit_setting(fit, model.image_size),
        "context length": model.context_length,
        "levels": levels,
        "files": checksums,
        "counts": dict(counts),
    }
    return Result(numbers, settings, dict(counts), tables)


def official_ranks(answers: Answers, wrong: int) -> Float[Tensor, " q"]:
    """FG-OVD's ranks (its ``ranks.py``), from 1, for the boxes with at least ``wrong`` wrong texts, among the first
    ``wrong`` of these; a tie counts against the right text.
    """
    enough = answers.wrong >= wrong
    return answers.not_below[enough, :wrong].sum(1).double() + 1


def _mean_rank(head: str, answers: Answers) -> dict[str, float]:
    """FG-OVD's mean rank, with as many wrong texts as most boxes of the file have."""
    usual = int(answers.wrong.mode().values)
    return {f"{head}/mean_rank_of_{usual + 1}": official_ranks(answers, usual).mean().item()}


def _usable(
    described_boxes: list[DescribedBox], file: Path, run: EvalContext, counts: Counter[str]
) -> tuple[list[DescribedBox], list[Box]]:
    present = with_files([(box.image.file, box) for box in described_boxes], file, run.skip_missing, counts)
    usable, boxes = [], []
    for box in present:
        assert box.image.size is not None  # set by the reader
        fraction = fraction_box(box.box, box.image.size, counts)
        if fraction is not None:
            usable.append(box)
            boxes.append(fraction)
    if not usable:
        raise ValueError(f"{file}: no box is left; left out: {dict(counts)}")
    return usable, boxes


ONE_TEXT = Rule("a list of one text", lambda v: isinstance(v, list) and len(v) == 1 and NAME.holds(v[0]))


class DescribedBox(NamedTuple):
    """A box x, y, width, height in pixels of its image; the first of ``texts`` describes it."""

    image: ImageFile
    box: Box
    texts: tuple[str, ...]
    name: str


def read_official(file: Path, root: Path) -> tuple[list[DescribedBox], str]:
    """Boxes of an official file, and its SHA-256. Raises ValueError where a field breaks the format."""
    annotations = AnnotationFile(file)
    images = annotations.by_id("images", IMAGE | {"file_name": PATH})
    captions = annotations.by_id("categories", {"id": WHOLE, "name": NAME})
    sources = {n: _image_file(root, i["file_name"], i["width"], i["height"]) for n, i in images.items()}
    described_boxes = []
    fields = {"id": WHOLE, "image_id": WHOLE, "category_id": WHOLE, "bbox": XYWH, "neg_category_ids": LIST}
    for number, row in annotations.by_id("annotations", fields).items():
        field = f"annotations[id {number}]"
        annotations.refer(f"{field}.image_id", row["image_id"], images, "images")
        chosen = [row["category_id"], *row["neg_category_ids"]]
        for category in chosen:
            annotations.refer(f"{field}.neg_category_ids", category, captions, "categories")
        texts = tuple(_full_stop(captions[category]["name"]) for category in chosen)
        described_boxes.append(DescribedBox(sources[row["image_id"]], tuple(row["bbox"]), texts, str(number)))
    return described_boxes, annotations.sha256


def read_fg_clip(file: Path, root: Path) -> tuple[list[DescribedBox], str]:
    """Boxes of FG-CLIP's file, and its SHA-256. Raises ValueError where a field breaks the format."""
    fields = {"img_path": PATH, "bbox": XYWH, "pos_expression": ONE_TEXT, "neg_expression": TEXTS}
    records = read_records(file, fields | {"width": SIDE, "height": SIDE})
    described_boxes = []
    for number, row in enumerate(records.rows):
        image = _image_file(root, row["img_path"], row["width"], row["height"])
        texts = (*row["pos_expression"], *row["neg_expression"])
        described_boxes.append(DescribedBox(image, tuple(row["bbox"]), texts, str(row.get("sent_id", number))))
    return described_boxes, records.sha256


def _image_file(root: Path, name: str, width: int, height: int) -> ImageFile:
    return ImageFile(first_file([root / name, root / "coco" / name]), name, (width, height))


def _full_stop(text: str) -> str:
    """The text with a full stop, as in FG-CLIP's files."""
    return text if text.endswith(".") else f"{text}."
