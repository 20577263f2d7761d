"""The folder of ``lightning predict``: embeddings of one model, one set of samples and one fit, and a note of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from datamodules.atomic_write import atomic_write, write_text
from eval.data.shard_samples import ShardSample
from eval.results.per_item import parquet

NOTE = "embeddings.json"
SAME = ("sha256", "samples", "fit")  # of the note: what all files of a folder have in common


def note_of(source: str, sha256: str, samples: Sequence[ShardSample], fit: str) -> dict[str, str]:
    """The note: the model, a digest of its weights, one of the samples, and how images become squares."""
    told = hashlib.sha256()
    for one in samples:
        told.update(f"{one.image.name}\0{one.sample.caption}\0".encode())
    return {"model": source, "sha256": sha256, "samples": told.hexdigest(), "fit": fit}


def check(folder: Path, note: Mapping[str, str], kinds: Sequence[str]) -> None:
    """See that ``folder`` is free for embeddings as ``note`` says.

    Raises:
        ValueError: where it holds embeddings of another model, of other samples or by another fit, or such of which
            nothing says what they are.
    """
    names = [f"{kind}.{ending}" for kind in kinds for ending in ("npy", "jsonl", "parquet")]
    found = [name for name in names if (folder / name).exists()]
    if not found:
        return
    file = folder / NOTE
    if not file.is_file():
        raise ValueError(f"--out {folder} holds {found[0]}, and no {NOTE} says of which model: choose another folder")
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        what = {
            "sha256": f"another model, {before['model']}",
            "samples": "other samples",
            "fit": f"--fit {before['fit']}",
        }
        other = [what[name] for name in SAME if before[name] != note[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}; choose another folder for --out") from error
    if other:
        raise ValueError(f"--out {folder} holds embeddings of {other[0]}: choose another folder")


def write_note(folder: Path, note: Mapping[str, str]) -> None:
    """Write the note into the folder."""
    write_text(folder / NOTE, json.dumps(dict(note), indent=1) + "\n")


def write(folder: Path, kind: str, rows: list[dict[str, str]], vectors: Float[Tensor, "N D"], format: str) -> None:
    """Write ``KIND.npy`` and ``KIND.jsonl``, or ``KIND.parquet``, each whole or not at all."""
    if format == "npy":
        with atomic_write(folder / f"{kind}.npy") as draft, draft.open("wb") as out:
            np.save(out, vectors.numpy())
        write_text(folder / f"{kind}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    arrow, writer = parquet()
    flat = arrow.array(vectors.numpy().ravel())
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["embedding"] = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    with atomic_write(folder / f"{kind}.parquet") as draft:
        writer.write_table(arrow.table(columns), draft)
