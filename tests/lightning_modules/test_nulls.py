"""``null`` on the command line is no value, however deep the setting stands, and leaves its neighbours alone."""

from __future__ import annotations

import pytest
import yaml

from lightning_modules.cli.main import main
from lightning_modules.cli.setting_names import nested_nulls


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("--model.optim.temperature_lr null", ["--model.optim", '{"temperature_lr": null}']),
        ("--model.optim.temperature_lr=null", ["--model.optim", '{"temperature_lr": null}']),
        (
            "--model.init_args.optim.image_lr ~ --name a",
            ["--model.init_args.optim", '{"image_lr": null}', "--name", "a"],
        ),
        ("--model.weights.init_args.least null", ["--model.weights", '{"init_args": {"least": null}}']),
    ],
)
def test_nested_ones_become_a_mapping(given, written):
    assert nested_nulls(given.split()) == written


@pytest.mark.parametrize(
    "given",
    ["--model.pretrained null", "--model.init_args.pretrained null", "--data.num_workers null", "--model.optim.lr 1",
     "--trainer.logger null", "--model.optim.temperature_lr", "--model.encoder.image_tower=timm/null"],
)  # fmt: skip
def test_all_else_stays(given):
    assert nested_nulls(given.split()) == given.split()


def test_by_command(capsys):
    """The config's other learning rates stay, and so do later arguments."""
    command = ["fit", "--config", "configs/clip.yaml", "--model.optim.temperature_lr", "null"]
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*command, "--model.encoder.image_tower=null", "--model.optim.warmup_steps", "7", "--print_config"])
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert model["optim"]["temperature_lr"] is None
    assert model["encoder"]["image_tower"] is None
    assert (model["optim"]["lr"], model["optim"]["warmup_steps"]) == (5e-4, 7)
    assert model["encoder"]["image_width"] == 128
