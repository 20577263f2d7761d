"""``make bench``: old beside new on the same work in one run; a table in the terminal, a line per row in
``runs/bench.jsonl``.

Each side runs in its own process, so that its peak memory is its own; times are the best of several, in turn.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

REPEATS = 3


def loss_work(side: str, objective: str, images: int) -> Callable[[], None]:
    """β-CAL forward and backward, K = 36, D = 512, a tenth of the slots padded."""
    from losses import BetaCalLoss
    from tests.bench.dense_beta_cal import dense_beta_cal

    torch.manual_seed(0)
    pooled, text = (torch.nn.functional.normalize(torch.randn(images, 36, 512), dim=-1) for _ in range(2))
    valid = torch.rand(images, 36) > 0.1
    loss = BetaCalLoss(objective, beta=0.5)  # type: ignore[arg-type]

    def work() -> None:
        u, v = pooled.clone().requires_grad_(), text.clone().requires_grad_()
        scale = torch.tensor(14.3, requires_grad=True)
        if side == "new":
            loss(u, v, valid, scale).backward()
        else:
            dense_beta_cal(objective, u, v, valid, scale, 0.5)[0].backward()

    return work


def text_work(side: str) -> Callable[[], None]:
    """The text tower of ViT-B/16 on four images' captions, five sentences and their phrases, forward and backward."""
    from datamodules.collate import pack_texts
    from datamodules.scenes import sample
    from datamodules.tokenizer import Tokenizer
    from lightning_modules.networks import vit_b_16
    from lightning_modules.networks.encoder import text_config
    from lightning_modules.networks.text_tower import TextTower

    torch.manual_seed(0)
    config = vit_b_16()
    tower = TextTower(text_config(config), config.embed_dim, config.frozen_positions)
    samples = [sample(i, "train") for i in range(4)]
    long = [t for s in samples for t in (s.caption, *s.sentences[:5])]
    short = [p.text for s in samples for p in s.phrases[:30]]
    texts, _ = pack_texts([*long, *short], Tokenizer(248))

    def padded(group: list[str]) -> None:
        ids = [Tokenizer(248)(t) for t in group]
        width = max(map(len, ids))
        rows = torch.tensor([i + [0] * (width - len(i)) for i in ids])
        tower.transformer(input_ids=rows).last_hidden_state.sum().backward()

    def work() -> None:
        tower.zero_grad()
        if side == "new":
            tower(texts).sum().backward()
        else:
            padded(long)
            padded(short)

    return work


ROWS = [
    ("β-CAL CE, B=64", lambda side: loss_work(side, "ce", 64), "time ≤ 1, memory ≤ 1/4"),
    ("β-CAL BCE, B=64", lambda side: loss_work(side, "bce", 64), "time ≤ 1, memory ≤ 1/4"),
    ("β-CAL CE, B=256", lambda side: loss_work(side, "ce", 256), "time ≤ 1/3, memory ≤ 1/10"),
    ("β-CAL BCE, B=256", lambda side: loss_work(side, "bce", 256), "time ≤ 1/3, memory ≤ 1/10"),
    ("text tower ViT-B/16", text_work, "time ≤ 1/4"),
]


def measure(row: int, side: str) -> tuple[float, float]:
    """Best seconds, and extra peak memory in MiB, of one side of a row."""
    work = ROWS[row][1](side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Measure all rows, print the table, append to ``runs/bench.jsonl``."""
    table = Table(title=f"old beside new, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for column in ("work", "old s", "new s", "time", "old MiB", "new MiB", "memory", "target"):
        table.add_column(column)
    history = Path("runs/bench.jsonl")
    history.parent.mkdir(exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row, (name, _, target) in enumerate(ROWS):
            (old, old_mib), (new, new_mib) = (pool.apply(measure, (row, side)) for side in ("old", "new"))
            memory = new_mib / max(old_mib, 1)
            cells = (old, new, new / old, old_mib, new_mib, memory)
            table.add_row(name, *(f"{c:.3g}" for c in cells), target)
            record = dict(zip(("old_s", "new_s", "time", "old_mib", "new_mib", "memory"), cells, strict=True))
            with history.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"work": name, "torch": torch.__version__, "machine": platform.machine(), **record})
                    + "\n"
                )
    Console().print(table)


if __name__ == "__main__":
    main()
