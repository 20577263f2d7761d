"""SugarCrepe (Hsieh et al., NeurIPS 2023): a caption against one changed in an object, attribute or relation.

Read from the released files, whose records are numbered (``swap_obj`` leaves out 108)::

    sugarcrepe/data/{add_att,add_obj,replace_att,replace_obj,replace_rel,swap_att,swap_obj}.json  val2017/*.jpg

A tie is a miss. ``mean`` is the mean of the seven.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from datamodules.formats.layout import NAME, PATH
from eval.data.find_file import first_there, place
from eval.data.image_files import present
from eval.data.image_preprocessing import centre_crop
from eval.data.records import read_records
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.ranking import Ties
from eval.protocols.embed import embed_images
from eval.protocols.image_text_retrieval import text_counts
from eval.protocols.multiple_choice import Question, answer, items, numbers
from eval.results.per_item import Items, Mean

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
FIELDS = {"filename": PATH, "caption": NAME, "negative_caption": NAME}


def sugarcrepe(model: Model, run: EvalContext) -> Result:
    """The seven kinds of change."""
    fit = run.fit or centre_crop
    found: dict[str, float] = {}
    tables, files, counts = {}, {}, Counter[str]()
    together: dict[str, list[Any]] = {}
    for kind in KINDS:
        records = read_records(place(run.root, *(f"{f}{kind}.json" for f in ("sugarcrepe/data/", "data/", ""))), FIELDS)
        files |= records.files
        listed = [
            (file := first_there([run.root / f / r["filename"] for f in ("val2017", "coco/val2017", "")]), (file, r))
            for r in records.rows
        ]
        there = present(listed, records.path, run.skip_missing, counts)
        if not there:
            raise ValueError(f"{records.path}: no image is left; left out: {dict(counts)}")
        images = {r["filename"]: ImageFile(file, r["filename"]) for file, r in there}
        row = {name: i for i, name in enumerate(images)}
        questions = [
            Question(row[r["filename"]], (r["caption"], r["negative_caption"]), f"{kind} {i}")
            for i, (_, r) in enumerate(there)
        ]
        head = f"sugarcrepe/{kind}"
        vectors = embed_images(model, run, list(images.values()), fit, head)
        answers = answer(model, run, vectors, questions, head)
        counts += text_counts(model, [text for q in questions for text in q.texts])
        found |= numbers(head, answers, Ties.PESSIMISTIC)
        own = items(
            head, questions, answers, Ties.PESSIMISTIC, [r["filename"] for _, r in there], {"kind": [kind] * len(there)}
        )
        tables[head] = own
        for column, values in own.columns.items():
            together.setdefault(column, []).extend(values)
    found["sugarcrepe/mean/accuracy"] = sum(found[f"sugarcrepe/{kind}/accuracy"] for kind in KINDS) / len(KINDS)
    mean = "sugarcrepe/mean"
    tables[mean] = Items(together, {f"{mean}/accuracy": Mean("hit", group="kind")}, "image")
    settings = {
        "protocol": "SugarCrepe: a tie is a miss; mean of the seven kinds",
        "image": f"{fit.__name__}, {model.image_size}×{model.image_size}",
        "context length": model.context_length,
        "files": files,
        "counts": dict(counts),
    }
    return Result(found, settings, dict(counts), tables)
