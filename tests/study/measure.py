"""A model's numbers on the embedded scenes, whatever it was trained with: the same texts of the same scenes for all.

    python tests/study/measure.py MODEL [--split dev] [--seed 0] [--scenes 2048] [--out FILE]

Retrieval by caption, by summary and by sentence, hard negatives, boxes, and pointing: the share of phrases whose map
peaks inside the box of the thing that they name, by attention where the model has any and by similarity. In fp32.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datamodules import GrainSampling, SceneSet
from datamodules.atomic_write import write_text
from datamodules.scenes import ensure_shards
from datamodules.shards.discovery import find_shards
from eval import markdown
from eval.data.shard_samples import read_shard_samples
from eval.protocols.phrase_grounding import by_attention, by_similarity
from lightning_modules.cli.demo import measure as validate
from lightning_modules.cli.evaluate import load_model
from tests.bench.pointing import pointing

POINTED = 512  # scenes whose phrases are looked for
SENTENCES = 5


def measure(source: str, scenes: SceneSet, split: Literal["dev", "held_out"] = "held_out") -> dict[str, float]:
    """All numbers of a checkpoint, folder or name of a model on a split of the ``scenes``."""
    model, _ = load_model(source, torch.device("cpu"))
    numbers = validate(model, scenes, split, GrainSampling(SENTENCES, 0, summaries=1))
    shards = ensure_shards(**asdict(scenes))._asdict()[split]
    samples = list(read_shard_samples(find_shards([str(shard) for shard in shards])))[:POINTED]
    numbers["pointing/similarity/accuracy"] = pointing(model, samples, by_similarity).accuracy
    if model.pooling is not None:
        numbers["pointing/attention/accuracy"] = pointing(model, samples, by_attention).accuracy
    return numbers


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--split", choices=("dev", "held_out"), default="held_out")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.add_argument("--scenes", type=int, default=SceneSet().held_out, help="of the split")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers; without it a table is shown")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # scenes of a split depend on the seed and their place: those to train on need not be there
    sizes = {"train": 16, "dev": 16, "held_out": 16, given.split: given.scenes}
    numbers = measure(given.model, SceneSet(**sizes, seed=given.seed), given.split)
    if given.out is None:
        print(markdown(numbers))
    else:
        write_text(given.out, json.dumps({"numbers": numbers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
