"""The metrics are torchmetrics': collections, devices, pickles, resets, ranks; and torchmetrics' own give the same."""

import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall
from torchmetrics.retrieval import RetrievalHitRate

from datamodules.batch import MultipleChoice
from eval import BoxAccuracy, HardNegatives, Retrieval
from lightning_modules import ClipFinetune
from lightning_modules.methods.validation_metrics import MeanLosses
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny_run import TINY

IMAGES, WIDTH, CLASSES = 10, 8, 6


def unit(rows):
    return nn.functional.normalize(rows, dim=1)


def batch(images=range(IMAGES), questions=True):
    """Arguments for every metric; what an image holds depends on its number only."""
    features = [torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(number)) for number in images]
    rows = torch.stack(features) if features else torch.zeros(0, 6, WIDTH)
    image, text, region = (
        unit(rows[:, 0]),
        unit((rows[:, :1] + rows[:, 1:3]).flatten(0, 1)),
        unit(rows[:, 3:].flatten(0, 1)),
    )
    number = torch.arange(len(images))
    count = len(images) if questions else 0
    return {
        "image_embeddings": image,
        "text_embeddings": text,
        "text_image": number.repeat_interleave(2),
        "keys": [f"key {n}" for n in images],
        "region_embeddings": region,
        "candidate_embeddings": text,
        "choices": MultipleChoice(
            region=3 * number[:count],
            level=torch.tensor([n % 2 for n in images], dtype=torch.long)[:count],
            index=torch.stack([2 * number, 2 * number + 1, (2 * number + 2) % max(len(text), 1)], dim=1)[:count],
            valid=torch.ones(count, 3, dtype=torch.bool),
            levels=("hard", "leicht ü"),
        ),
        "region_image": number.repeat_interleave(3),
        "class_embeddings": unit(torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(77))),
        "labels": torch.tensor([(n + k) % 4 for n in images for k in range(3)], dtype=torch.long),
    }


def collection():
    return MetricCollection([Retrieval("caption"), HardNegatives(), BoxAccuracy()])


def feed(metric, images=range(IMAGES)):
    """Update a metric with those of a batch's arguments that it takes."""
    MetricCollection([metric]).update(**batch(images))


def alone():
    numbers = {}
    for metric in (Retrieval("caption"), HardNegatives(), BoxAccuracy()):
        feed(metric)
        numbers |= metric.compute()
    return numbers


def test_a_collection_hands_each_metric_its_arguments():
    metrics = collection()
    metrics.update(**batch(range(4), questions=False))
    metrics.update(**batch(range(4)))  # the same images again
    metrics.update(**batch(range(4, 10)))
    numbers = metrics.compute()
    names = {name for name in numbers if not name.startswith("hard_negatives")}
    assert {name: numbers[name] for name in names} == {name: alone()[name] for name in names}
    assert numbers["hard_negatives/leicht ü/questions"] == 5
    assert metrics.compute_groups == {0: ["Retrieval"], 1: ["HardNegatives"], 2: ["BoxAccuracy"]}
    assert metrics.clone(prefix="val/").compute().keys() == {f"val/{name}" for name in numbers}


def test_two_of_a_kind_in_a_collection_share_their_rows_and_differ_in_their_settings():
    metrics = MetricCollection({"one": BoxAccuracy("one", ks=(1,)), "two": BoxAccuracy("two", ks=(2,))})
    metrics.update(**batch(range(0)))  # no box: at first nothing tells them apart
    metrics.update(**batch())
    numbers = metrics.compute()
    expected = BoxAccuracy("both", ks=(1, 2))
    feed(expected)
    assert metrics.compute_groups == {0: ["one", "two"]}
    assert (
        numbers["one/top1"] == expected.compute()["both/top1"] < numbers["two/top2"] == expected.compute()["both/top2"]
    )


def test_forward_gives_a_batch_and_keeps_all():
    metric = Retrieval("caption", ks=(1,))
    whole = Retrieval("caption", ks=(1,))
    for images in (range(4), range(4, 10)):
        single = Retrieval("caption", ks=(1,))
        feed(single, images)
        feed(whole, images)
        assert MetricCollection([metric])(**batch(images)) == single.compute()
    assert metric.compute() == whole.compute()


@pytest.mark.parametrize("metric", [Retrieval("caption"), HardNegatives(), BoxAccuracy()], ids=lambda m: m.name)
def test_pickled_and_copied_metrics_go_on_where_they_were(metric):
    metric.reset()
    feed(metric, range(4))
    copies = [pickle.loads(pickle.dumps(metric)), metric.clone()]
    for fed in (metric, *copies):
        feed(fed, range(4, 10))
    numbers = metric.compute()
    assert numbers
    assert [c.compute() for c in copies] == [numbers, numbers]
    metric.reset()
    assert not any(len(rows) for rows in metric.metric_state.values())
    assert copies[0].compute() == numbers


def test_states_move_with_the_method_and_stand_in_no_checkpoint():
    method = ClipFinetune(encoder=TINY)
    names = method.state_dict().keys()
    retrieval = method.validation.retrieval["caption"]
    feed(retrieval)
    method.validation_losses.update({"global": torch.tensor(1.0)}, 4)
    assert method.state_dict().keys() == names
    assert not [name for name in names if name.startswith("validation")]
    method.half()  # states keep their dtype: ranks come from float32
    assert retrieval.images_embedding[0].dtype == torch.float32
    method.to("meta")
    metrics = [module for module in method.modules() if isinstance(module, Metric)]
    assert len(metrics) == 6
    for metric in metrics:
        assert metric.device.type == "meta"
        assert all(rows.is_meta for state in metric.metric_state.values() for rows in state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_numbers_of_the_cpu():
    metrics = collection().to("cuda")
    moved = {name: value.to("cuda") if isinstance(value, torch.Tensor) else value for name, value in batch().items()}
    moved["choices"] = MultipleChoice(*(tensor.to("cuda") for tensor in moved["choices"][:4]), moved["choices"].levels)
    metrics.update(**moved)
    assert metrics.compute() == pytest.approx(alone())
    metrics.update(**moved)
    metrics.to("cpu")
    assert metrics.compute() == pytest.approx(alone())


@pytest.mark.parametrize("k", [1, 3])
def test_retrieval_is_torchmetrics_hit_rate(k):
    metric, arguments = Retrieval("caption", ks=(k,)), batch()
    feed(metric)
    similarity = arguments["text_embeddings"] @ arguments["image_embeddings"].T
    positive = arguments["text_image"][:, None] == torch.arange(IMAGES)
    numbers = metric.compute()
    for direction, scores, right in (
        ("text_to_image", similarity, positive),
        ("image_to_text", similarity.T, positive.T),
    ):
        query = torch.arange(len(scores))[:, None].expand_as(scores)
        peer = RetrievalHitRate(top_k=k)(scores.flatten(), right.flatten(), query.flatten())
        assert 0 < numbers[f"caption/{direction}/R@{k}"] < 1
        assert numbers[f"caption/{direction}/R@{k}"] == pytest.approx(float(peer))


def test_box_accuracy_is_torchmetrics_accuracy():
    metric, arguments = BoxAccuracy(), batch()
    feed(metric)
    scores, labels = arguments["region_embeddings"] @ arguments["class_embeddings"].T, arguments["labels"]
    numbers = metric.compute()
    for k in (1, 5):
        over_boxes = MulticlassAccuracy(CLASSES, top_k=k, average="micro")(scores, labels)
        of_classes = MulticlassRecall(CLASSES, top_k=k, average=None)(scores, labels)
        assert 0 < numbers[f"boxes/top{k}"] <= 1
        assert numbers[f"boxes/top{k}"] == pytest.approx(float(over_boxes))
        assert numbers[f"boxes/class_mean_top{k}"] == pytest.approx(float(of_classes[labels.unique()].mean()))


def test_hard_negatives_are_torchmetrics_hit_rate_at_1():
    metric, arguments = HardNegatives(), batch()
    feed(metric)
    choices = arguments["choices"]
    regions, texts = arguments["region_embeddings"][choices.region], arguments["candidate_embeddings"][choices.index]
    scores, right = torch.einsum("qd,qcd->qc", regions, texts), torch.tensor([[True, False, False]]).repeat(IMAGES, 1)
    for level, name in enumerate(choices.levels):
        rows = choices.level == level
        query = torch.arange(int(rows.sum())).repeat_interleave(3)
        peer = RetrievalHitRate(top_k=1)(scores[rows].flatten(), right[rows].flatten(), query)
        assert metric.compute()[f"hard_negatives/{name}/accuracy"] == pytest.approx(float(peer))


def on_ranks(shares):
    """Numbers of a collection and of means; rank 1 sees no sample, then all meet again after more batches."""
    metrics, means = collection(), MeanLosses()
    numbers = []
    for images in shares[dist.get_rank()]:
        metrics.update(**batch(images))
        means.update({"global": torch.tensor(float(sum(images)))}, len(images))
        numbers.append(metrics.compute())  # gathers, then goes on with this rank's own rows
    rows = len(torch.cat(metrics["Retrieval"].images_id))
    losses = means.compute()
    metrics.reset()
    means.reset()
    return numbers, rows, float(losses["global"])


def test_two_ranks_one_of_them_without_a_sample():
    shares = [[range(4), range(4, 10)], [range(0), range(0)]]
    first, second = run_on_ranks(on_ranks, 2, shares)
    single = collection()
    single.update(**batch(range(4)))
    early = single.compute()
    assert first[0] == second[0] == [early, alone()]
    assert (first[1], second[1]) == (10, 0)
    assert first[2] == second[2] == pytest.approx((4 * sum(range(4)) / 2 + 6 * sum(range(4, 10)) / 2) / 10)
