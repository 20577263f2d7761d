"""SugarCrepe (Hsieh et al., NeurIPS 2023): a caption against a copy with a changed object, attribute or relation.

Read from the released files, whose records are numbered (``swap_obj`` leaves out 108)::

    sugarcrepe/data/{add_att,add_obj,replace_att,replace_obj,replace_rel,swap_att,swap_obj}.json  val2017/*.jpg

A tie is a miss. ``mean`` is the mean of the seven.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from datamodules.formats.layout import NAME, PATH
from eval.data.find_file import find_path, first_file, with_files
from eval.data.image_preprocessing import centre_crop, fit_setting
from eval.data.records import read_records
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.ranking import Ties
from eval.protocols.embed import embed_images
from eval.protocols.image_text_retrieval import text_counts
from eval.protocols.multiple_choice import Question, answer_items, answer_numbers, answer_questions
from eval.results.per_item import Items, Mean

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
FIELDS = {"filename": PATH, "caption": NAME, "negative_caption": NAME}


def sugarcrepe(model: Model, run: EvalContext) -> Result:
    """The seven kinds of change."""
    fit = run.fit or centre_crop
    results: dict[str, float] = {}
    tables, files, counts = {}, {}, Counter[str]()
    all_columns: dict[str, list[Any]] = {}
    for kind in KINDS:
        records = read_records(
            find_path(run.root, *(f"{f}{kind}.json" for f in ("sugarcrepe/data/", "data/", ""))), FIELDS
        )
        files |= records.files
        items = [
            (file := first_file([run.root / f / r["filename"] for f in ("val2017", "coco/val2017", "")]), (file, r))
            for r in records.rows
        ]
        present = with_files(items, records.path, run.skip_missing, counts)
        if not present:
            raise ValueError(f"{records.path}: no image is left; left out: {dict(counts)}")
        images = {r["filename"]: ImageFile(file, r["filename"]) for file, r in present}
        row = {name: i for i, name in enumerate(images)}
        questions = [
            Question(row[r["filename"]], (r["caption"], r["negative_caption"]), f"{kind} {i}")
            for i, (_, r) in enumerate(present)
        ]
        head = f"sugarcrepe/{kind}"
        vectors = embed_images(model, run, list(images.values()), fit, head)
        answers = answer_questions(model, run, vectors, questions, head)
        counts += text_counts(model, [text for q in questions for text in q.texts])
        results |= answer_numbers(head, answers, Ties.PESSIMISTIC)
        names, extra_columns = [r["filename"] for _, r in present], {"kind": [kind] * len(present)}
        tables[head] = answer_items(head, questions, answers, Ties.PESSIMISTIC, names, extra_columns)
        for column, values in tables[head].columns.items():
            all_columns.setdefault(column, []).extend(values)
    results["sugarcrepe/mean/accuracy"] = sum(results[f"sugarcrepe/{kind}/accuracy"] for kind in KINDS) / len(KINDS)
    mean = "sugarcrepe/mean"
    tables[mean] = Items(all_columns, {f"{mean}/accuracy": Mean("hit", group="kind")}, "image")
    settings = {
        "protocol": "SugarCrepe: a tie is a miss; mean of the seven kinds",
        "image": fit_setting(fit, model.image_size),
        "context length": model.context_length,
        "files": files,
        "counts": dict(counts),
    }
    return Result(results, settings, dict(counts), tables)
