"""Numbers beside the losses: what they measure, where they are written, and that training is as it would be without."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from lightning_modules import BetaClip, ClipFinetune, OptimConfig
from lightning_modules.boards.layout import LAYOUT
from lightning_modules.boards.statistics import kinds
from lightning_modules.callbacks import Benchmarks, DataMonitor, Diagnostics, Throughput
from lightning_modules.callbacks.peak_flops import peak_flops
from lightning_modules.networks import DualEncoder
from lightning_modules.networks.flops import training_flops
from lightning_modules.networks.sequence_packing import empty_share
from tests.helpers.tiny_methods import METHODS, method_data
from tests.helpers.tiny_run import TINY, data, fit, fit_method


class Norms(Callback):
    """The gradient of the image tower, every step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        flat = torch.cat([p.grad.flatten() for p in pl_module.encoder.image_tower.parameters()])
        self.seen.append(flat.norm().item())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with all numbers, its events, and the norms that it should have logged."""
    folder, norms = tmp_path_factory.mktemp("run"), Norms()
    trainer = fit(folder, Diagnostics(every_n_steps=8), Throughput(), DataMonitor(), norms)
    return trainer, EventAccumulator(str(folder), {"scalars": 0, "histograms": 0}).Reload(), norms.seen


def test_everything_is_there_at_its_steps(run):
    _, events, norms = run
    tags = events.Tags()
    looks = {
        "geometry/alignment", "geometry/modality_gap", "geometry/uniformity/image", "geometry/uniformity/caption",
        "geometry/effective_rank/image", "geometry/effective_rank/caption",
        *(f"similarity/{grain}/positive" for grain in ("caption", "sentence", "phrase")),
        *(f"similarity/{grain}/negative" for grain in ("caption", "sentence", "phrase")),
        "similarity/phrase/same image", "similarity/sentence/same image",
    }  # fmt: skip
    every = {
        "gradient_norm/image_tower", "gradient_norm/text_tower", "gradient_norm/pooling", "memory/process_peak",
        "throughput/teraflops", "data/duplicate_share", "data/padding_share", "beta_cal_by_grain/caption",
        "beta_cal_by_grain/sentence", "beta_cal_by_grain/phrase",
    }  # fmt: skip
    assert set(tags["scalars"]) >= looks | every
    means = {tag for tag in tags["scalars"] if tag.startswith("similarity/")}
    assert {tag.replace("similarities/", "similarity/") for tag in tags["histograms"]} == means
    for tag in looks:
        assert [event.step for event in events.Scalars(tag)] == [8, 12]
    for tag in every:
        assert len(events.Scalars(tag)) == 12
    assert [event.value for event in events.Scalars("gradient_norm/image_tower")] == pytest.approx(norms, rel=1e-4)
    assert not [tag for tag in tags["scalars"] if tag.startswith(("retention", "throughput/mfu"))]


def test_training_is_as_it_would_be_without(run, tmp_path):
    plain = fit(tmp_path)
    for one, other in zip(run[0].model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


def charts(events):
    """The titles of the layout's charts."""
    content = events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(content)
    return [chart.title for category in layout.category for chart in category.chart]


def test_the_layout_has_no_chart_for_what_is_not_measured(run):
    _, events, _ = run
    titles = charts(events)
    assert titles[:3] == ["terms in training", "terms in validation", "beta cal by grain"]
    assert not {
        "retention against the start", "benchmarks, R@1", "model FLOPs utilisation", "boxes", "hard negatives by level",
    } & set(titles)  # fmt: skip
    scalars = [tag for tag in events.Tags()["scalars"] if not tag.startswith("lr-")]  # there by the command's callback
    for charts_of_group in LAYOUT.values():
        for title, (_, (pattern,)) in charts_of_group.items():
            if title in titles and title != "learning rates":
                assert any(re.match(pattern, tag) for tag in scalars), title


def test_the_layout_has_a_chart_for_what_is_measured_now_and_then(tmp_path):
    torch.manual_seed(0)
    DualEncoder(TINY).save_pretrained(tmp_path / "start")
    benchmarks = Benchmarks([], str(tmp_path), every_n_steps=5)
    fit(tmp_path, Diagnostics(), benchmarks, epochs=1, method=ClipFinetune, pretrained=str(tmp_path / "start"))
    titles = charts(EventAccumulator(str(tmp_path)).Reload())
    assert {"retention against the start", "benchmarks, R@1"} <= set(titles)
    assert "beta cal by grain" not in titles


def test_scales_are_called_so(run):
    trainer, events, _ = run
    scale = trainer.model.encoder.logit_scale.item()
    assert events.Scalars("logit_scale/global")[-1].value == pytest.approx(scale, rel=1e-3)
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("temperature")]


def columns(folder):
    """Of a run: its settings, all columns by name, those that come first, and the results."""
    plugin = EventAccumulator(str(folder)).Reload().PluginTagToContent("hparams")
    start, experiment = (
        plugin_data_pb2.HParamsPluginData.FromString(plugin[f"_hparams_/{name}"])
        for name in ("session_start_info", "experiment")
    )
    infos = {info.name: info.type for info in experiment.experiment.hparam_infos}
    first = [info.name for info in experiment.experiment.hparam_infos if info.differs]
    results = [info.name.tag for info in experiment.experiment.metric_infos]
    return start.session_start_info.hparams, infos, first, results


@pytest.mark.slow
def test_every_method_has_the_same_columns_and_the_results_are_its_curves(tmp_path):
    found = {}
    for name, method in METHODS.items():
        scalars = fit_method(tmp_path / name, method(), method_data(tmp_path / name), 1, Diagnostics())
        settings, *shared = found[name] = columns(tmp_path / name)
        assert shared == list(found["clip"][1:])
        _, infos, first, results = found[name]
        assert sorted(first) == first == ["1 method", "2 objective", "3 beta", "4 optim/lr", "5 data/batch_size"]
        assert set(settings) <= set(infos)
        assert settings["1 method"].string_value == METHODS[name].func.__name__
        assert settings["4 optim/lr"].number_value == 1e-2
        assert {tag for tag in results if tag in scalars} == {
            *(f"val/{grain}/{way}/R@1" for grain in ("caption", "sentence")
              for way in ("text_to_image", "image_to_text")), "train/loss",
        }  # fmt: skip
        assert not [tag for tag in scalars if tag.startswith("final/")]
    assert found["beta_ce"][0]["2 objective"].string_value == "ce"
    assert found["beta_ce"][0]["3 beta"].number_value == 0.5
    assert "3 beta" not in found["mul"][0]
    assert {"pooling_heads", "word_weight", "lexeme_weight", "calibration/gain", "lora/rank"} <= set(found["clip"][1])


def test_retention_is_one_where_nothing_is_learnt(tmp_path):
    torch.manual_seed(0)
    DualEncoder(TINY).save_pretrained(tmp_path / "start")
    watcher = Diagnostics(every_n_steps=1)
    trainer = Trainer(
        max_steps=1, accelerator="cpu", devices=1, logger=TensorBoardLogger(tmp_path, "", ""), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[watcher],
    )  # fmt: skip
    still = OptimConfig(lr=0.0, added_modules_lr=0.0, temperature_lr=0.0, weight_decay=0.0)
    trainer.fit(ClipFinetune(encoder=TINY, pretrained=str(tmp_path / "start"), optim=still), data(tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(watcher.start) == {"caption", "short text"}
    for name, was in watcher.start.items():
        if was:
            assert [event.value for event in events.Scalars(f"retention/{name}")] == [1.0]
    resumed = Diagnostics()
    resumed.load_state_dict(watcher.state_dict())
    assert resumed.start == watcher.start


@pytest.mark.parametrize("clipped", [False, True])
def test_gradient_norms_are_those_of_the_loss_without_its_scale(tmp_path, clipped):
    """By 16-mixed precision: a fused optimiser is handed scaled gradients, another one, where they are clipped, not."""
    found = []
    for scale in (1.0, 1024.0):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        settings = {"max_steps": 1, "plugins": [MixedPrecision("16-mixed", "cpu", scaler)], "limit_val_batches": 0}
        folder = tmp_path / str(scale)
        fit(folder, Diagnostics(0), trainer=settings | ({"gradient_clip_val": 1e9} if clipped else {}))
        events = EventAccumulator(str(folder)).Reload()
        norms = [events.Scalars(f"gradient_norm/{name}") for name in ("image_tower", "text_tower", "pooling")]
        found.append([event.value for tag in norms for event in tag])
    assert found[0] == pytest.approx(found[1], rel=0.02)
    assert len(found[0]) == 3


def test_without_a_logger_nothing_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_modules.callbacks.diagnostics.first_samples", lambda _: 1 / 0)
    trainer = Trainer(
        max_steps=1, accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[Diagnostics(every_n_steps=1), Throughput(), DataMonitor()],
    )  # fmt: skip
    trainer.fit(BetaClip(encoder=TINY), data(tmp_path))
    with pytest.raises(ValueError, match=r"diagnostics\.every_n_steps must be at least 0, got -1"):
        Diagnostics(-1)


def test_kinds_of_pairs():
    image, text = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([3, 4, 3, 5, 6])  # text 3 belongs to images 0 and 1
    views = kinds(image, text, image, text)
    whole = kinds(torch.arange(3), None, image, text)
    for r, c in product(range(5), range(5)):
        kind = (
            "positive" if r == c else "same image" if image[r] == image[c] else "duplicate" if text[r] == text[c]
            else "negative"
        )  # fmt: skip
        assert [name for name, pairs in views.items() if pairs[r, c]] == [kind]
    owns = [{3, 4}, {3, 5}, {6}]
    for b, c in product(range(3), range(5)):
        kind = "positive" if image[c] == b else "duplicate" if int(text[c]) in owns[b] else "negative"
        assert [name for name, pairs in whole.items() if pairs[b, c]] == [kind]


def test_operations_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    from datamodules.batching.collate import pack_texts
    from datamodules.batching.tokenizer import Tokenizer

    encoder = DualEncoder(TINY)
    texts, _ = pack_texts(["a red cube of some kind " * 5], Tokenizer(77))
    pixels = torch.randn(3, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        tokens = encoder.image_tower(pixels).sum() + encoder.text_tower(texts).sum()
        tokens.backward()
    length = len(texts.tokens)
    ours = training_flops(TINY, 3, length, length**2)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.25)  # packing pads, fused attention counts otherwise
    assert peak_flops(torch.device("cpu"), "bf16-mixed") is None


def test_padding_is_what_the_rows_leave_empty():
    assert empty_share([], 77) == 0.0
    assert empty_share([64], 77) == 0.0
    assert empty_share([40, 40], 77) == pytest.approx(1 - 80 / 128)
