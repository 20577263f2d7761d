"""Retrieval with the real captions of COCO and DOCCI: against a loop in float64, and the tokenizer."""

import json

import torch

from datamodules.batching.tokenizer import Tokenizer
from eval.benchmarks.coco_captions import coco_val2017
from eval.benchmarks.docci import docci
from eval.data.image_preprocessing import centre_crop
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext
from eval.protocols.embed import pixels
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import DualEncoder
from tests.eval import releases
from tests.eval.benchmarks.test_image_text import measures
from tests.eval.official import rows
from tests.helpers.tiny_run import TINY


def test_real_captions_of_coco(shared):
    root = shared / "data" / "coco_tiny"
    document = rows(root / "annotations" / "captions_val2017.json")
    torch.manual_seed(0)
    encoder = DualEncoder(TINY)
    for weight in encoder.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)  # so that answers differ by more than rounding
    model = EvaluationModel(encoder, torch.device("cpu"))
    result = coco_val2017(model, EvalContext(root))
    captions_of: dict[int, list[str]] = {}
    for annotation in document["annotations"]:
        captions_of.setdefault(annotation["image_id"], []).append(annotation["caption"])
    captions = {image["file_name"]: captions_of[image["id"]][:5] for image in document["images"]}
    table = result.items["coco_val2017/text_to_image"].columns
    texts_of: dict[str, list[str]] = {}
    for image, text in zip(table["image"], table["text"], strict=True):
        texts_of.setdefault(image, []).append(text)
    assert texts_of == captions
    names = list(texts_of)
    vectors = {
        name: model.encode_image(pixels(centre_crop, ImageFile(root / "val2017" / name, name), 16)[None])
        .image[0]
        .double()
        for name in names
    }
    stack = torch.stack([vectors[name] for name in names])
    ranks = []
    for image, text in zip(table["image"], table["text"], strict=True):
        scores = stack @ model.encode_text([text])[0].double()
        ranks.append(int((scores > scores[names.index(image)]).sum()))
    off = [abs(expected - rank) for expected, rank in zip(ranks, table["rank"], strict=True)]
    assert sum(off) <= 2  # of 250 queries: neighbours closer than rounding
    assert len(set(ranks)) > 20


def test_real_captions_of_docci_are_cut_as_the_tokenizer_says(shared, tmp_path):
    lines = (shared / "data" / "docci_captions.jsonl").read_text().splitlines()[:40]
    records = []
    for line in map(json.loads, lines):
        image = f"{line['id']}.jpg"
        releases.plain(tmp_path / "docci" / "images" / image, "red")
        records.append({"example_id": line["id"], "split": "test", "image_file": image, "description": line["caption"]})
    releases.write_lines(tmp_path / "docci" / "docci_descriptions.jsonlines", records)
    torch.manual_seed(0)
    model = EvaluationModel(DualEncoder(TINY), torch.device("cpu"))
    result = docci(model, EvalContext(tmp_path))
    cut = sum(len(Tokenizer(10_000)(record["description"])) > 77 for record in records)
    assert 20 < cut <= 40
    assert result.counts == {"text cut at 77 tokens": cut}
    assert measures(result)["ties"] == 1.0  # all images are alike
    assert measures(result)["strict_R@1"] == 0.0
    assert measures(result)["R@1"] == 1.0
