"""A peer's numbers: the same exported model, evaluated by open_clip's own images and tokens, and by CLIP_benchmark.

CLIP_benchmark comes with the extra ``dev``; where it is not installed its test is left out.
"""

from __future__ import annotations

import io
import json
import tarfile

import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional

from lightning_modules.cli.main import main
from lightning_modules.networks import DualEncoder
from tests.helpers.tiny import COLOURS, THINGS, picture
from tests.helpers.tiny_run import TINY

IMAGES, CLASSES = 24, 6
TEMPLATES = ["a photo of a {c}.", "my {c}"]
NAMES = list(THINGS[:CLASSES])


def captions(number):
    return [
        f"A {COLOURS[(number + n) % 8]} {THINGS[number * (n + 3) % 8]}, number {number}." for n in range(2 + number % 2)
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of several shapes with two or three captions, and the same with a class each, as WebDataset tars."""
    folder = tmp_path_factory.mktemp("sets")
    for kind, member in (("retrieval", "txt"), ("classification", "cls")):
        (folder / kind / "test").mkdir(parents=True)
        (folder / kind / "test" / "nshards.txt").write_text("1")
        (folder / kind / "dataset_type.txt").write_text(kind)
        (folder / kind / "classnames.txt").write_text("\n".join(NAMES))
        (folder / kind / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
        with tarfile.open(folder / kind / "test" / "0.tar", "w") as tar:
            for number in range(IMAGES):
                text = "\n".join(captions(number)) if member == "txt" else str(number % CLASSES)
                image = picture(number, 20 + 3 * number, 50 - number)
                for end, data in (("jpg", image), (member, text.encode())):
                    info = tarfile.TarInfo(f"s{number:07d}.{end}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def ours(root, tmp_path_factory):
    """Our numbers, and the model as open_clip loads it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    encoder = DualEncoder(TINY)
    for name, weight in encoder.named_parameters():
        if weight.ndim > 1 and "position" not in name:
            torch.nn.init.normal_(weight, std=0.3)  # so that answers differ
    encoder.save_open_clip(folder)
    out = folder.parent / "numbers.json"
    names = "wds:retrieval,wds:classification"
    arguments = ["--model", str(folder), "--benchmark", names, "--root", str(root), "--out", str(out)]
    assert main(["evaluate", *arguments, "--device", "cpu", "--batch_size", "5"]) == 0
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    return json.loads(out.read_text())["numbers"], model.eval(), preprocess, tokenizer


def batches(preprocess, targets, size=7):
    opened = [preprocess(Image.open(io.BytesIO(picture(n, 20 + 3 * n, 50 - n)))) for n in range(IMAGES)]
    for first in range(0, IMAGES, size):
        part = slice(first, first + size)
        yield torch.stack(opened[part]), targets[part]


@torch.no_grad()
def test_open_clip_gives_the_same_retrieval(ours):
    numbers, model, preprocess, tokenizer = ours
    texts = [text for n in range(IMAGES) for text in captions(n)]
    owner = torch.tensor([n for n in range(IMAGES) for _ in captions(n)])
    pictures = torch.cat([model.encode_image(images, normalize=True) for images, _ in batches(preprocess, owner)])
    scores = model.encode_text(tokenizer(texts), normalize=True) @ pictures.T
    for k in (1, 5):
        text_hits = [owner[t] in scores[t].topk(k).indices for t in range(len(texts))]
        image_hits = [n in owner[scores[:, n].topk(k).indices] for n in range(IMAGES)]
        assert numbers[f"wds:retrieval/text_to_image/R@{k}"] == pytest.approx(sum(text_hits) / len(texts))
        assert numbers[f"wds:retrieval/image_to_text/R@{k}"] == pytest.approx(sum(image_hits) / IMAGES)
    assert 0 < numbers["wds:retrieval/text_to_image/R@5"] < 1


@torch.no_grad()
def test_open_clip_gives_the_same_classification(ours):
    numbers, model, preprocess, tokenizer = ours
    rows = [model.encode_text(tokenizer([t.format(c=name) for t in TEMPLATES]), normalize=True) for name in NAMES]
    classes = functional.normalize(torch.stack([row.mean(0) for row in rows]), dim=1)
    labels = torch.arange(IMAGES) % CLASSES
    found = torch.cat([model.encode_image(images) @ classes.T for images, _ in batches(preprocess, labels)])
    assert numbers["wds:classification/top1"] == pytest.approx((found.argmax(1) == labels).double().mean().item())
    assert 0 < numbers["wds:classification/top1"] < 1


def test_clip_benchmark_gives_the_same_numbers(ours):
    retrieval = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    classification = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    numbers, model, preprocess, tokenizer = ours
    loader = list(batches(preprocess, [captions(n) for n in range(IMAGES)]))
    found = retrieval.evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    for k in (1, 5, 10):
        assert numbers[f"wds:retrieval/text_to_image/R@{k}"] == pytest.approx(found[f"image_retrieval_recall@{k}"])
        assert numbers[f"wds:retrieval/image_to_text/R@{k}"] == pytest.approx(found[f"text_retrieval_recall@{k}"])
    labels = torch.arange(IMAGES) % CLASSES
    weights = classification.zero_shot_classifier(model, tokenizer, NAMES, TEMPLATES, "cpu", amp=False)
    scores, labels = classification.run_classification(
        model, weights, list(batches(preprocess, labels)), "cpu", amp=False
    )
    right = scores.topk(5).indices == labels[:, None]  # its own top-k does not run on numpy 2
    assert numbers["wds:classification/top1"] == pytest.approx(right[:, 0].double().mean().item())
    assert numbers["wds:classification/top5"] == pytest.approx(right.any(1).double().mean().item())
    per_class = classification.balanced_accuracy_score(labels, scores.argmax(1))
    assert numbers["wds:classification/class_mean_top1"] == pytest.approx(per_class)
