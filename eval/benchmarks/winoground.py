"""Winoground (Thrush et al., CVPR 2022): two pictures, two captions of the same words; which belongs to which?

Read from the release (gated)::

    winoground/data/examples.jsonl  winoground/data/images/NAME.png

Of 400 examples, the share whose captions are right for both pictures (text), whose pictures are right for both captions
(image), and both (group). A tie is a miss.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.annotations import NAME, PATH
from eval.benchmark import Model, Result, Run
from eval.embed import embed_images, embed_texts
from eval.fits import centre_crop
from eval.image_text import text_counts
from eval.items import Items, Mean
from eval.pictures import present
from eval.places import first_there, place
from eval.records import read_records
from eval.sources import ImageFile

FIELDS = {"image_0": PATH, "image_1": PATH, "caption_0": NAME, "caption_1": NAME}
MEASURES = ("text", "image", "group")


def winoground(model: Model, run: Run) -> Result:
    """400 examples."""
    fit = run.fit or centre_crop
    records = read_records(
        place(run.root, *(f"{f}examples.jsonl" for f in ("winoground/data/", "winoground/", ""))), FIELDS
    )
    counts: Counter[str] = Counter()
    listed = [
        (_picture(records.path.parent, r[side]), (i, side))
        for i, r in enumerate(records.rows)
        for side in FIELDS
        if side[:5] == "image"
    ]
    there = {key for key in present(listed, records.path, run.skip_missing, counts)}
    kept = [i for i in range(len(records.rows)) if {(i, "image_0"), (i, "image_1")} <= there]
    if not kept:
        raise ValueError(f"{records.path}: no example is left; left out: {dict(counts)}")
    files = {key: file for file, key in listed}
    images = [ImageFile(files[i, side], f"{i} {side}") for i in kept for side in ("image_0", "image_1")]
    texts = [records.rows[i][side] for i in kept for side in ("caption_0", "caption_1")]
    seen = embed_images(model, run, images, fit, "winoground").unflatten(0, (-1, 2))
    said = embed_texts(model, run, texts, "winoground").unflatten(0, (-1, 2))
    score = (said[:, :, None] * seen[:, None]).sum(3)  # example, caption, picture
    text = (score[:, 0, 0] > score[:, 1, 0]) & (score[:, 1, 1] > score[:, 0, 1])
    image = (score[:, 0, 0] > score[:, 0, 1]) & (score[:, 1, 1] > score[:, 1, 0])
    columns = dict(zip(MEASURES, (text, image, text & image), strict=True))
    counts += text_counts(model, texts)
    found = {f"winoground/{name}_accuracy": hits.double().mean().item() for name, hits in columns.items()}
    settings = {
        "protocol": "Winoground: text, image and group score; a tie is a miss",
        "picture": f"{fit.__name__}, {model.image_size}×{model.image_size}",
        "context length": model.context_length,
        "files": records.files,
        "counts": dict(counts),
    }
    table = Items(
        {"example": kept, "caption_0": texts[::2], "caption_1": texts[1::2]}
        | {n: c.tolist() for n, c in columns.items()},
        {f"winoground/{name}_accuracy": Mean(name) for name in MEASURES},
        "example",
    )
    return Result(found | {"winoground/questions": float(len(kept))}, settings, dict(counts), {"winoground": table})


def _picture(folder: Path, name: str) -> Path:
    return first_there([folder / f / f"{name}{end}" for f in ("images", "") for end in ("", ".png", ".jpg")])
