"""ARO (Yuksekgonul et al., ICLR 2023): relations and attributes of objects in boxes of Visual Genome.

Read from the released files; the image is cropped to the annotation's box::

    visual_genome_relation.json  visual_genome_attribution.json  images/*.jpg

A tie is a miss. The published number is the mean over relations, and over pairs of attributes with at least 25
questions. ARO's word-order tasks (COCO, Flickr30k) are generated at random in each run, so there is no file to read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from datamodules.formats.layout import NAME, PATH, WHOLE, Rule
from eval.data.find_file import find_path, first_file, with_files
from eval.data.image_preprocessing import centre_crop, fit_setting
from eval.data.records import read_records
from eval.data.sources import Crop, ImageFile
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.ranking import Ties
from eval.protocols.embed import embed_images
from eval.protocols.image_text_retrieval import text_counts
from eval.protocols.multiple_choice import Question, answer_items, answer_numbers, answer_questions
from eval.results.per_item import Mean

BOX = {f"bbox_{side}": WHOLE for side in ("x", "y", "w", "h")}
FIELDS = BOX | {"image_path": PATH, "true_caption": NAME, "false_caption": NAME}
PAIR = Rule("a list of two texts", lambda v: isinstance(v, list) and len(v) == 2 and all(map(NAME.holds, v)))


class AroTask(NamedTuple):
    """A file, the fields of its records, the group of a record, and the fewest questions of a group that counts."""

    file: str
    fields: dict[str, Rule]
    group: Callable[[dict[str, Any]], str]
    min_questions: int


RELATION = AroTask("visual_genome_relation", {"relation_name": NAME}, lambda r: r["relation_name"], 1)
ATTRIBUTION = AroTask("visual_genome_attribution", {"attributes": PAIR}, lambda r: "_".join(r["attributes"]), 25)


def aro_relation(model: Model, run: EvalContext) -> Result:
    """Visual Genome Relation."""
    return _run("aro_relation", RELATION, model, run)


def aro_attribution(model: Model, run: EvalContext) -> Result:
    """Visual Genome Attribution."""
    return _run("aro_attribution", ATTRIBUTION, model, run)


def _run(name: str, task: AroTask, model: Model, run: EvalContext) -> Result:
    fit = run.fit or centre_crop
    path = find_path(run.root, f"{task.file}.json", f"aro/{task.file}.json")
    records = read_records(path, FIELDS | task.fields)
    counts: Counter[str] = Counter()
    items = [(file := _image(path.parent, r["image_path"]), (file, r)) for r in records.rows]
    present = with_files(items, path, run.skip_missing, counts)
    if not present:
        raise ValueError(f"{path}: no image is left; left out: {dict(counts)}")
    rows = [r for _, r in present]
    crops = [Crop(ImageFile(file, r["image_path"]), _box(r)) for file, r in present]
    questions = [Question(i, (r["true_caption"], r["false_caption"]), f"{name} {i}") for i, r in enumerate(rows)]
    answers = answer_questions(model, run, embed_images(model, run, crops, fit, name), questions, name)
    counts += text_counts(model, [text for q in questions for text in q.texts])
    groups = [task.group(r) for r in rows]
    hits = answers.hits(Ties.PESSIMISTIC).tolist()
    by_group: dict[str, list[bool]] = {}
    for group, hit in zip(groups, hits, strict=True):
        by_group.setdefault(group, []).append(hit)
    large = [sum(h) / len(h) for h in by_group.values() if len(h) >= task.min_questions]
    if not large:
        raise ValueError(f"{path}: no group has {task.min_questions} questions, the fewest that count")
    numbers = {f"{name}/macro_accuracy": sum(large) / len(large)} | answer_numbers(name, answers, Ties.PESSIMISTIC)
    settings = {
        "protocol": "ARO: box cut out, a tie is a miss; published number macro_accuracy, "
        f"groups of {task.min_questions} on",
        "image": fit_setting(fit, model.image_size),
        "context length": model.context_length,
        "groups that count": len(large),
        "files": records.files,
        "counts": dict(counts),
    }
    columns = {"group": groups, "counts": [len(by_group[group]) >= task.min_questions for group in groups]}
    table = answer_items(name, questions, answers, Ties.PESSIMISTIC, [r["image_path"] for r in rows], columns)
    table.means[f"{name}/macro_accuracy"] = Mean("hit", "counts", "group")
    return Result(numbers, settings, dict(counts), {name: table})


def _box(record: dict[str, Any]) -> tuple[int, int, int, int]:
    left, top = record["bbox_x"], record["bbox_y"]
    return left, top, left + record["bbox_w"], top + record["bbox_h"]


def _image(folder: Path, image: str) -> Path:
    name = PurePosixPath(image).name
    return first_file([folder / "images" / name, folder / image])
