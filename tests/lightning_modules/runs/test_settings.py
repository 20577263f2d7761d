"""Settings that belong to a run, and the line for those that differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_modules.checkpoints.setting_changes import LATER, Change, accepted, changes, recorded
from lightning_modules.runs.start import refusal

CONFIG = {
    "seed_everything": 3,
    "name": "a",
    "model": {
        "class_path": "lightning_modules.BetaClip",
        "init_args": {"beta": 0.5, "memory": {"grad_cache_chunk": None}, "optim": {"lr": 1e-3, "betas": [0.9, 0.98]}},
    },
    "data": {"shards": ["a.tar", "b.tar"], "num_workers": 2, "skip": {"max_rate": 0.01}, "sampling": {"phrases": 5}},
    "trainer": {"max_epochs": 4, "devices": 2, "accumulate_grad_batches": 1, "strategy": "ddp"},
    "images": {"every_n_steps": 5},
}


def other(**paths):
    """The config with some settings changed; keys as ``model__init_args__beta``."""
    import copy

    found = copy.deepcopy(CONFIG)
    for path, value in paths.items():
        *parents, name = path.split("__")
        place = found
        for parent in parents:
            place = place[parent]
        place[name] = value
    return changes(recorded(CONFIG), recorded(found))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model__init_args__beta": 0.25}, "model.beta: 0.5 → 0.25"),
        ({"model__init_args__optim__betas": [0.9, 0.95]}, "model.optim.betas: [0.9, 0.98] → [0.9, 0.95]"),
        ({"data__shards": "c.tar"}, 'data.shards: ["a.tar", "b.tar"] → c.tar'),
        ({"data__sampling__phrases": 0}, "data.sampling.phrases: 5 → 0"),
        ({"seed_everything": 4}, "seed_everything: 3 → 4"),
        ({"trainer__accumulate_grad_batches": 8}, "trainer.accumulate_grad_batches: 1 → 8"),
        (
            {"model": {"class_path": "lightning_modules.MulClip", "init_args": {"alpha": 1.0}}},
            "model: BetaClip → MulClip",
        ),
    ],
)
def test_what_belongs_to_a_run(change, said):
    (found,) = other(**change)
    assert str(found) == said
    assert not found.free


@pytest.mark.parametrize(
    "change",
    [
        {"data__num_workers": 0}, {"data__skip__max_rate": 0.5}, {"model__init_args__memory__grad_cache_chunk": 4},
        {"trainer__devices": 8}, {"trainer__strategy": "auto"}, {"images__every_n_steps": 0}, {"name": "b"},
    ],
)  # fmt: skip
def test_what_may_change_freely(change):
    assert not other(**change)


def test_a_longer_training_is_free_and_told():
    (found,) = other(trainer__max_epochs=8)
    assert found.free
    assert str(found) == "trainer.max_epochs: 4 → 8"


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        (True, True),
        (False, False),
        (["model.optim"], True),
        (["model.optim.lr"], True),
        (["model.opt"], False),
        ([], False),
    ],
)
def test_acceptance(accept, taken):
    assert accepted(Change("model.optim.lr", 1, 2), accept) == taken


def test_the_line_names_what_differs_and_what_to_do():
    few = [Change("model.beta", 0.5, 0.25), Change("seed_everything", 3, 4)]
    line = refusal(few, Path("runs/a/checkpoints/last.ckpt"), 440)
    assert line == (
        "runs/a/checkpoints/last.ckpt (step 440) has other settings: model.beta: 0.5 → 0.25, seed_everything: 3 → 4; "
        "--name OTHER trains apart, --resume.accept true goes on"
    )
    many = [Change(f"model.setting_{n}", n, n + 1) for n in range(30)]
    line = refusal(many, Path("runs/a/checkpoints/last.ckpt"), 440)
    assert len(line) <= 200
    assert "model.setting_0: 0 → 1, " in line
    assert f"and {30 - line.count('→')} more" in line


def test_an_older_run_goes_on_though_it_knows_nothing_of_later_settings():
    old = {"model.optim.lr": 1e-3}
    new = {**old, **LATER, "model.optim.image_lr": None, "model.lora": None}
    assert not changes(old, new)
    changed = changes(old, {**new, "model.freeze.image_tower": "all", "model.optim.image_lr": 1e-4})
    assert [str(change) for change in changed] == [
        "model.freeze.image_tower: none → all", "model.optim.image_lr: null → 0.0001",
    ]  # fmt: skip
    assert [change.name for change in changes(new, old | LATER | {"model.lora.rank": 4})] == ["model.lora.rank"]
