"""Benchmarks of the towers: packed texts against padded ones, and the whole training step of ViT-B/16."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.bench.texts import PHRASES, SENTENCES, captions, padded

if TYPE_CHECKING:
    from lightning_modules.networks import EncoderConfig

TEXT_IMAGES, STEP_IMAGES = 8, 8  # the more images, the longer the longest text, to which the old side pads


def text_tower(side: str) -> Callable[[], None]:
    """ViT-B/16's text tower on some images' captions, sentences and phrases, forward and backward."""
    from datamodules.batching.collate import pack_texts
    from datamodules.batching.tokenizer import Tokenizer
    from lightning_modules.networks import vit_b_16
    from lightning_modules.networks.text_tower import TextTower

    torch.manual_seed(0)
    tower = TextTower(vit_b_16())
    _, grains = captions(TEXT_IMAGES)
    texts, _ = pack_texts([t for g in grains for t in (g.caption, *g.sentences, *g.phrases)], Tokenizer(248))
    long, short = _published(grains)

    def work() -> None:
        tower.zero_grad()
        if side == "new":
            tower(texts)[texts.offsets[1:] - 1].sum().backward()
        else:
            (_encode_padded(tower, long).sum() + _encode_padded(tower, short).sum()).backward()

    return work


def step(
    side: str, device: str = "cpu", images: int = STEP_IMAGES, config: EncoderConfig | None = None
) -> Callable[[], None]:
    """β-CLIP with CE: both towers (ViT-B/16 by default), pooling, both losses, gradients and the optimiser's step."""
    from datamodules.batching.collate import pack_texts
    from datamodules.batching.tokenizer import Tokenizer
    from lightning_modules.networks import DualEncoder, TextConditionedPooling, vit_b_16
    from losses import BetaCalLoss, ClipLoss

    torch.manual_seed(0)
    config = config or vit_b_16()
    encoder, pooling = DualEncoder(config).to(device), TextConditionedPooling(config.embed_dim).to(device)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *pooling.parameters()], 1e-5)
    _, grains = captions(images)
    slots = 1 + SENTENCES + PHRASES
    valid = torch.zeros(images, slots, dtype=torch.bool)
    index = torch.zeros(images, slots, dtype=torch.long)
    texts, rows = pack_texts([t for g in grains for t in (g.caption, *g.sentences, *g.phrases)], Tokenizer(248))
    taken = 0
    for b, g in enumerate(grains):
        sizes = 1 + len(g.sentences), len(g.phrases)
        for at, size in zip((0, 1 + SENTENCES), sizes, strict=True):
            index[b, at : at + size] = rows[taken : taken + size]
            valid[b, at : at + size] = True
            taken += size
    long, short = (ids.to(device) for ids in _published(grains))
    texts = type(texts)(*(t.to(device) for t in texts))
    index, valid = index.to(device), valid.to(device)
    pixels = torch.randn(images, 3, config.image_size, config.image_size, device=device)
    clip, beta_cal = ClipLoss(), BetaCalLoss("ce")

    def new() -> Tensor:
        features, found = encoder(pixels, texts)
        text = found.text[index]
        views = pooling(text, features.patches)
        return clip(features.image, text[:, 0], encoder.logit_scale) + beta_cal(views, text, valid, pooling.scale)

    def old() -> Tensor:
        from tests.bench.dense_beta_cal import dense_beta_cal

        features = encoder.encode_image(pixels)
        parts = [_encode_padded(encoder.text_tower, ids) for ids in (long, short)]
        text = functional.normalize(torch.cat(parts, dim=1), dim=-1)
        views = pooling(text, features.patches)
        logits = encoder.logit_scale * features.image @ text[:, 0].T
        target = torch.arange(images, device=device)
        contrast = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        return contrast + dense_beta_cal("ce", views, text, valid, pooling.scale, 0.5)[0]

    def work() -> None:
        optimizer.zero_grad()
        with precision(device):
            loss = new() if side == "new" else old()
        loss.backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return work


def loss_share(repeats: int) -> float:
    """Seconds of both losses in ``step``, forward and backward, in the step's own sizes."""
    from losses import BetaCalLoss, ClipLoss

    torch.manual_seed(0)
    image, views, text = (
        functional.normalize(torch.randn(*shape, 512), dim=-1)
        for shape in ((STEP_IMAGES,), (STEP_IMAGES, 36), (STEP_IMAGES, 36))
    )
    valid = torch.ones(STEP_IMAGES, 36, dtype=torch.bool)
    seconds = []
    for _ in range(repeats + 1):
        i, u, v = (x.clone().requires_grad_() for x in (image, views, text))
        start = time.perf_counter()
        (ClipLoss()(i, v[:, 0], 14.3) + BetaCalLoss("ce")(u, v, valid, 14.3)).backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def precision(device: str) -> AbstractContextManager[None]:
    """bf16 where the hardware has it, as in training."""
    from lightning_modules.cli.precision import best_precision

    enabled = best_precision(device) == "bf16-mixed"
    return torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=enabled)


def _published(grains: list) -> tuple[Tensor, Tensor]:
    return (
        padded([[g.caption, *g.sentences] for g in grains], 1 + SENTENCES),
        padded([g.phrases for g in grains], PHRASES),
    )


def _encode_padded(tower: nn.Module, ids: Tensor) -> Tensor:
    """[B, K, L] ids to [B, K, D], all of them, padding too; a text is read at its last real token."""
    rows = ids.flatten(0, 1)
    hidden = tower.transformer(input_ids=rows).last_hidden_state
    last = (rows != 0).sum(1).sub(1).clamp(min=0)
    return tower.projection(hidden[torch.arange(len(rows), device=rows.device), last]).unflatten(0, ids.shape[:2])
