"""``lightning predict``: embeddings of shards, images and texts, as NumPy or Parquet files.

For each kind (image, caption, sentence, phrase) ``KIND.npy`` holds unit vectors in fp32, a row each, and
``KIND.jsonl`` the sample's key and the text of each row; or ``KIND.parquet`` all three. Started by ``torchrun``, ranks
share the work.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

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
from lightning_modules.cli.predict_folder import check, note_of, write, write_note
from lightning_modules.errors import fail
from lightning_modules.inference.evaluation_model import EvaluationModel


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


def run(given: Namespace) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    try:
        if given.format == "parquet":
            parquet()
        not_a_run(given.out, "--out")
        make_folder(given.out, "--out")
        device = wanted_device(given.device)
        samples = list(read_shard_samples(find_shards(given.shards)))
        model = load_model(given.model, device)[0]
        fit = next((fit for fit in FITS if fit.__name__ == given.fit), None)
        with TorchrunGroup(device):
            cache = None if given.cache is None else Cache(given.cache)
            settings = EvalContext(Path(), given.batch_size, track=progress, cache=cache, fit=fit)
            note = note_of(given.model, model.weights, samples, (fit or centre_crop).__name__)
            check(given.out, note, KINDS)
            for kind in given.kinds:
                rows, vectors = predict(model, settings, samples, kind)
                if rank() == 0:
                    write_note(given.out, note)
                    write(given.out, kind, rows, vectors, given.format)
                    sys.stdout.write(f"{given.out / kind}.{given.format}: {list(vectors.shape)}\n")
    except (ValueError, OSError) as error:
        fail(str(error))
    return 0
