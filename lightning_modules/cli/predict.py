"""``lightning predict``: embeddings of shards, images and texts, as NumPy or Parquet files.

For each kind (image, caption, sentence, phrase) ``KIND.npy`` holds unit vectors in fp32, a row each, and
``KIND.jsonl`` the sample's key and the text of each row; or ``KIND.parquet`` all three. Started by ``torchrun``, ranks
share the work.
"""

from __future__ import annotations

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from datamodules.atomic_write import atomic_write, write_text
from datamodules.shards.discovery import find_shards
from eval.data.cache import Cache
from eval.data.image_preprocessing import FITS, centre_crop
from eval.data.shard_samples import ShardSample, read_shard_samples
from eval.interfaces import EvalContext
from eval.metrics.gather import rank
from eval.protocols.embed import embed_images, embed_texts
from eval.results.per_item import parquet
from lightning_modules.cli.evaluate import TorchrunGroup, load_model, progress, wanted_device
from lightning_modules.cli.output_paths import make_folder, not_a_run
from lightning_modules.cli.parsers import KINDS
from lightning_modules.errors import fail
from lightning_modules.inference.evaluation_model import EvaluationModel

NOTE = "embeddings.json"  # describes the embeddings in a folder: of one model, one set of samples and one fit


def predict(
    model: EvaluationModel, run: EvalContext, samples: Sequence[ShardSample], kind: str
) -> tuple[list[dict[str, str]], Tensor]:
    """Keys and texts, and their unit vectors, of one of ``parsers.KINDS``. Collective."""
    if kind == "image":
        rows = [{"key": s.image.name} for s in samples]
        return rows, embed_images(model, run, [s.image for s in samples], run.fit or centre_crop, kind)
    texts = {
        "caption": lambda s: [s.sample.caption],
        "sentence": lambda s: s.sample.sentences,
        "phrase": lambda s: [phrase.text for phrase in s.sample.phrases],
    }[kind]
    rows = [{"key": s.image.name, "text": text} for s in samples for text in texts(s)]
    if not rows:
        raise ValueError(f"--kinds: the shards hold no {kind}")
    return rows, embed_texts(model, run, [row["text"] for row in rows], kind)


def run(args: Namespace) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    try:
        if args.format == "parquet":
            parquet()
        not_a_run(args.out, "--out")
        make_folder(args.out, "--out")
        device = wanted_device(args.device)
        samples = list(read_shard_samples(find_shards(args.shards)))
        model = load_model(args.model, device)[0]
        fit = next((fit for fit in FITS if fit.__name__ == args.fit), None)
        with TorchrunGroup(device):
            cache = None if args.cache is None else Cache(args.cache)
            settings = EvalContext(Path(), args.batch_size, track=progress, cache=cache, fit=fit)
            note = _note(args.model, model.weights, samples, (fit or centre_crop).__name__)
            _check_folder(args.out, note, KINDS)
            for kind in args.kinds:
                rows, vectors = predict(model, settings, samples, kind)
                if rank() == 0:
                    write_text(args.out / NOTE, json.dumps(note, indent=1) + "\n")
                    _write(args.out, kind, rows, vectors, args.format)
                    sys.stdout.write(f"{args.out / kind}.{args.format}: {list(vectors.shape)}\n")
    except (ValueError, OSError) as error:
        fail(str(error))
    return 0


def _note(source: str, sha256: str, samples: Sequence[ShardSample], fit: str) -> dict[str, str]:
    """The note: the model, a digest of its weights, one of the samples, and how images become squares."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.image.name}\0{sample.sample.caption}\0".encode())
    return {"model": source, "sha256": sha256, "samples": digest.hexdigest(), "fit": fit}


def _check_folder(folder: Path, note: Mapping[str, str], kinds: Sequence[str]) -> None:
    """Check that ``folder`` may take the embeddings that ``note`` describes.

    Raises:
        ValueError: where it holds embeddings of another model, other samples or another fit, or embeddings without a
            note.
    """
    names = [f"{kind}.{ending}" for kind in kinds for ending in ("npy", "jsonl", "parquet")]
    existing = [name for name in names if (folder / name).exists()]
    if not existing:
        return
    file = folder / NOTE
    if not file.is_file():
        raise ValueError(f"--out {folder} holds {existing[0]}, but no {NOTE}: choose another folder")
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        origins = {
            "sha256": f"another model, {before['model']}",
            "samples": "other samples",
            "fit": f"--fit {before['fit']}",
        }
        differing = [origin for name, origin in origins.items() if before[name] != note[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}; choose another folder for --out") from error
    if differing:
        raise ValueError(f"--out {folder} holds embeddings of {differing[0]}: choose another folder")


def _write(folder: Path, kind: str, rows: list[dict[str, str]], vectors: Float[Tensor, "N D"], format: str) -> None:
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
