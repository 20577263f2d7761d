"""The trainer's help: at once, what it names is there, and the defaults it tells are the defaults."""

from __future__ import annotations

import re
import sys

import pytest

from lightning_modules import METHODS, BetaClip
from lightning_modules.cli.main import main
from lightning_modules.cli.setting_names import class_settings
from lightning_modules.cli.trainer import GrainCli, Method
from lightning_modules.cli.trainer_help import HELP, short_help, wants_short_help, without_all
from lightning_modules.networks import EncoderConfig

TOLD = re.findall(r"^  --([\w.]+)\+?=?(?: (\S+))?", HELP, re.MULTILINE)


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    """The parser of ``fit``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning", "fit", "--model", "BetaClip"])
        patch.setattr(GrainCli, "instantiate_classes", lambda self: None)
        patch.setattr(GrainCli, "before_instantiate_classes", lambda self: None)
        patch.setattr(GrainCli, "after_instantiate_classes", lambda self: None)
        patch.setattr(GrainCli, "_run_subcommand", lambda self, subcommand: None)
        patch.chdir(tmp_path_factory.mktemp("parser"))
        return GrainCli()._parser("fit")


def test_each_setting_is_there_and_has_the_default_that_is_told(parser):
    assert 40 <= len(TOLD) <= 70
    defaults = {name.replace(".init_args", ""): value for name, value in parser.get_defaults().items()}
    methods, sizes = set(class_settings(Method, "model")), EncoderConfig()
    for name, told in TOLD:
        if name.startswith("model.") and name != "model.help":
            assert name in methods, name
            if "encoder" in name and not told.isupper():
                assert told == str(getattr(sizes, name.rpartition(".")[2]))
        else:
            assert name in {action.dest for action in parser._actions}, name
            if told and not told.isupper():
                assert str(defaults[name]).lower() == told.lower(), name
    assert all(f" {name}" in short_help("fit") for name in METHODS)
    assert BetaClip.__name__ in HELP


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_help_comes_at_once(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown == short_help(command)
    assert max(map(len, shown.splitlines())) <= 120
    assert main([command, "--config", "nowhere.yaml", "-h"]) == 0


def test_help_on_everything(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning"])
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--help", "all"])
    assert "--trainer.detect_anomaly" in capsys.readouterr().out


def test_which_help():
    assert wants_short_help(["fit", "--help"])
    assert not wants_short_help(["fit", "--help", "all"])
    assert not wants_short_help(["fit", "--model.help", "BetaClip"])
    assert without_all(["fit", "--help", "all", "--name", "all"]) == ["fit", "--help", "--name", "all"]


@pytest.mark.parametrize("name", ["BetaClip", "MulClip", "lightning_modules.HarmoClip"])
def test_help_on_a_method_by_its_short_name(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning"])
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--model.help", name])
    assert "--model.optim.lr" in capsys.readouterr().out
