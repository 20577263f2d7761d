"""The end of ``make base``: the trained base as the model ``scenes-base`` of the package, with a card.

Weights go out in half precision as a transformers folder, without a tokenizer of its own: it is CLIP's. The numbers on
the card are measured with these very weights, on the dev and the held-out scenes.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datamodules import SceneSet
from datamodules.scenes.shards import VERSION
from eval import markdown
from lightning_modules.boards.run_logs import read_run
from lightning_modules.networks import DualEncoder
from lightning_modules.networks.weights.files import SHIPPED
from tests.study.measure import measure
from tests.study.rows import ROOT

NAME = "scenes-base"
KEPT = ("config.json", "model.safetensors")
FIRST_STEPS = 200  # whose losses are on the card, so that another training can be compared
CARD = """---
library_name: transformers
license: apache-2.0
pipeline_tag: zero-shot-image-classification
tags: [clip, grainclip]
---

# scenes-base

A small CLIP ({size:.1f} M weights, 64-pixel images, 77 tokens) that knows short captions of the embedded scenes: what
the configs of GrainCLIP fine-tune on long ones, `--model.pretrained scenes-base`. It knows nothing of photographs.

| | |
|---|---|
| command | `make base`, which is `lightning fit --config configs/base.yaml` |
| data | {train} training scenes of the generator's version {version}, seed 0; of each its summary alone |
| steps | {steps} of 128 images, in {precision} |
| weights | half precision, SHA-256 of `model.safetensors` {digest} |

## Numbers

After {steps} steps, with the weights of this folder. Captions have more tokens than the 77 that the model reads.

{numbers}

## Losses of the first steps

The same command on the same machine repeats them.

| step | loss |
|---|---|
{losses}
"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=ROOT / "runs" / "base", help="default: runs/base")
    parser.add_argument("--out", type=Path, default=SHIPPED / NAME, help="default: the package's own folder")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / NAME
        checkpoint = given.run / "checkpoints" / "last.ckpt"
        export = (sys.executable, "-m", "lightning_modules", "export", str(checkpoint), str(made), "--dtype", "float16")
        subprocess.run(export, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        card = describe(given.run, checkpoint, made)
        given.out.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copyfile(made / name, given.out / name)
    (given.out / "README.md").write_text(card, encoding="utf-8")
    print(f"{card}\nwritten: {given.out}")


def describe(run: Path, checkpoint: Path, weights: Path) -> str:
    """The card of the exported ``weights``."""
    logs = read_run(run, NAME)
    steps = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    losses = [(step + 1, loss) for step, loss in logs.scalars["train/loss"] if step < FIRST_STEPS]
    numbers = {split.replace("_", "-"): measure(str(weights), SceneSet(), split) for split in ("dev", "held_out")}
    model = DualEncoder.from_pretrained(weights)
    return CARD.format(
        size=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        train=logs.config["data.scenes.train"],
        version=VERSION,
        steps=steps,
        precision=logs.config["trainer.precision"].strip('"'),
        digest=hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest(),
        numbers="\n\n".join(f"On the {split} scenes:\n\n{markdown(found).strip()}" for split, found in numbers.items()),
        losses="\n".join(f"| {step} | {loss:.4f} |" for step, loss in losses),
    )


if __name__ == "__main__":
    main()
