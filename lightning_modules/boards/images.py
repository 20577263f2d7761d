"""Figures of a snapshot of fixed samples: each function draws one kind and yields figures with their tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.batch import Grain
from datamodules.batching.tokenizer import word_hash
from eval.drawing.boxes import PredictedBox, boxes_figure
from eval.drawing.gallery import TopCandidates, images_for_texts, texts_for_images
from eval.drawing.heat import heat_figure
from eval.drawing.matrices import block_figure, sweep_figure, within_figure
from eval.drawing.plane import plane_figure
from eval.protocols.prompts import class_vectors
from lightning_modules.boards.snapshot import SampleText, Snapshot
from lightning_modules.inference.attention_maps import heat_maps
from lightning_modules.methods.base import Method
from lightning_modules.methods.validation_metrics import TEMPLATES

SHOWN = {Grain.CAPTION: 1, Grain.SENTENCE: 4, Grain.PHRASE: 4}  # texts of an image
EVERY = {Grain.CAPTION: 1, Grain.SENTENCE: 8, Grain.PHRASE: 8}
BEST = 5
Tagged = Iterator[tuple[str, Figure]]


def attention(snapshot: Snapshot, samples: Sequence[int], step: int) -> Tagged:
    """Attention maps of caption, sentences and phrases."""
    for number, b in enumerate(samples, 1):
        texts = snapshot.read(b, SHOWN)
        heat = heat_maps(snapshot.model, snapshot.vectors(texts), snapshot.images.dense[b : b + 1])
        captions = [f"{text.name}: {text.words}" for text in texts]
        title = f"Where texts look: {snapshot.batch.keys[b]}, step {step}"
        yield f"attention/sample {number}", heat_figure(snapshot.pil_image(b), captions, heat, title)


def boxes(snapshot: Snapshot, samples: Sequence[int], step: int, labels: Sequence[str]) -> Tagged:
    """Boxes with the name that the model gives them: of ``labels`` where they are known, else of the phrases that name
    boxes.
    """
    names, vectors = _candidates(snapshot, labels)
    for number, b in enumerate(samples, 1):
        rows = (snapshot.batch.regions.image == b).nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        corners = snapshot.batch.regions.boxes[rows]
        judged = [PredictedBox((x0, y0, x1, y1)) for x0, y0, x1, y1 in corners.tolist()]
        if names:
            first_image = torch.zeros(len(rows), dtype=torch.long, device=corners.device)
            regions = snapshot.model.pool_regions(snapshot.images.dense[b : b + 1], corners, first_image)
            best = (regions @ vectors.to(regions).T).argmax(1).tolist()
            truths = [_truth(snapshot, row, names, labels) for row in rows.tolist()]
            judged = [
                box._replace(predicted=names[n], truth=truth)
                for box, n, truth in zip(judged, best, truths, strict=True)
            ]
        choice = f", named out of {len(names)}" if names else ""
        title = f"Boxes{choice}: {snapshot.batch.keys[b]}, step {step}"
        yield f"boxes/sample {number}", boxes_figure(snapshot.pil_image(b), judged, title)


def _candidates(snapshot: Snapshot, labels: Sequence[str]) -> tuple[list[str], Float[Tensor, "C D"]]:
    if labels:
        return list(labels), class_vectors(snapshot.model.encode_text, labels, TEMPLATES)
    regions, slots = snapshot.batch.regions, snapshot.batch.grains[Grain.PHRASE]
    box, phrase = regions.links.unbind(1)
    rows = slots.index[regions.image[box], phrase].unique().tolist()
    return [snapshot.words(row) for row in rows], snapshot.texts.text[rows].float()


def _truth(snapshot: Snapshot, row: int, names: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    regions, slots = snapshot.batch.regions, snapshot.batch.grains[Grain.PHRASE]
    if labels:
        return tuple(name for name in names if word_hash(name) == int(regions.label[row]))
    phrases = regions.links[regions.links[:, 0] == row, 1].tolist()
    return tuple(snapshot.words(int(slots.index[regions.image[row], phrase])) for phrase in phrases)


def similarities(snapshot: Snapshot, samples: Sequence[int], step: int) -> Tagged:
    """Texts of one image against each other, and of several against all; rows are views where the method has them."""
    texts = [snapshot.read(b, EVERY) for b in samples]
    vectors = [snapshot.vectors(image_texts) for image_texts in texts]
    views = [snapshot.views(image_texts, b) for b, image_texts in zip(samples, texts, strict=True)]
    rows = [v if view is None else view for v, view in zip(vectors, views, strict=True)]
    sides = ("text" if views[0] is None else "image as seen by text", "text")
    for number, (b, image_texts, row, vector) in enumerate(zip(samples, texts, rows, vectors, strict=True), 1):
        title = f"Within one image: {snapshot.batch.keys[b]}, step {step}"
        words = [text.words for text in image_texts]
        yield (
            f"similarity within an image/sample {number}",
            within_figure(row @ vector.T, [text.code for text in image_texts], words, sides, title),
        )
    title = f"All texts of {len(samples)} images, step {step}"
    cosines = torch.cat(rows) @ torch.cat(vectors).T
    yield (
        "similarity of all/block matrix",
        block_figure(cosines, [len(image_texts) for image_texts in texts], sides, title),
    )


def galleries(snapshot: Snapshot, samples: Sequence[int], step: int) -> Tagged:
    """The images that captions find among the batch, and the captions that images find."""
    slots = snapshot.batch.grains[Grain.CAPTION]
    row = slots.index[:, 0].cpu()
    cosines = (
        snapshot.texts.text[slots.index[:, 0]].float() @ snapshot.images.image.float().T
    ).cpu()  # [caption, image]
    same = row[:, None] == row
    by_text, by_image = _rankings(cosines, same, samples), _rankings(cosines.T, same, samples)
    images = {b: snapshot.pil_image(b) for b in {*samples, *(n for ranking in by_text for n in ranking.candidates)}}
    ranked_texts = {n for ranking in by_image for n in ranking.candidates}
    words = {b: snapshot.words(int(row[b])) for b in {*samples, *ranked_texts}}
    among = f"among {len(row)}, step {step}; ✓ and a blue frame: a hit"
    queries, title = [words[b] for b in samples], f"Images found by their caption {among}"
    yield "gallery/text to image", images_for_texts(queries, images, by_text, title)
    queries, title = [images[b] for b in samples], f"Captions found by their image {among}"
    yield "gallery/image to text", texts_for_images(queries, words, by_image, title)


def _rankings(cosines: Float[Tensor, "N N"], same: Tensor, queries: Sequence[int]) -> list[TopCandidates]:
    best = cosines[list(queries)].topk(min(BEST, cosines.shape[1]))
    return [
        TopCandidates(numbers.tolist(), values.tolist(), same[query, numbers].tolist())
        for query, values, numbers in zip(queries, *best, strict=True)
    ]


def targets(method: Method, snapshot: Snapshot, samples: Sequence[int]) -> Tagged:
    """The target matrices of at most three images for several settings, where the method has any to choose."""
    slots = [snapshot.batch.grains[grain].valid[list(samples[:3])] for grain in EVERY]
    valid = torch.cat(slots, dim=1).cpu()
    swept = {name: _blocks(matrices, valid) for name, matrices in method.target_matrices(valid).items()}
    if swept:
        yield "targets/sweep", sweep_figure(swept, "strength", f"Targets of {len(valid)} images")


def _blocks(matrices: Float[Tensor, "B K K"], valid: Tensor) -> Float[Tensor, "N N"]:
    """The images' matrices along the diagonal, without padding."""
    keep = valid.flatten()
    return torch.block_diag(*matrices)[keep][:, keep]


def plane(snapshot: Snapshot, step: int) -> Tagged:
    """Images and texts in one plane."""
    groups = {name: vectors for name, (vectors, _) in embeddings(snapshot).items()}
    yield "embeddings/plane", plane_figure(groups, f"Embeddings of {len(snapshot.images.image)} images, step {step}")


def embeddings(snapshot: Snapshot) -> dict[str, tuple[Float[Tensor, "_ D"], list[str]]]:
    """Unit vectors and names, by modality and grain: images, then the unique texts of each grain there is."""
    groups = {"image": (snapshot.images.image.float(), list(snapshot.batch.keys))}
    for grain in EVERY:
        slots = snapshot.batch.grains[grain]
        rows = slots.index[slots.valid].unique()
        if len(rows):
            words = [SampleText(grain, 0, snapshot.words(row), row) for row in rows.tolist()]
            groups[grain.value] = (snapshot.vectors(words), [text.words for text in words])
    return groups
