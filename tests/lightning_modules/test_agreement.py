"""Ranks that differ are stopped with one clear line, and so is a rank that does not find the others."""

from __future__ import annotations

import pytest
from lightning.fabric.utilities.rank_zero import rank_zero_only

from lightning_modules.callbacks.agreement import Agreement, compare
from lightning_modules.cli import main
from lightning_modules.trainer_cli import unconnected
from tests.lightning_modules.test_cli import ROOT, SHORT, elsewhere  # noqa: F401  a fixture

FACTS = {"host": "a", "code": "c1", "packages": "torch 2", "settings of the model": "m1", "data": "d1"}


def test_ranks_on_other_hosts_may_agree():
    compare([FACTS, {**FACTS, "host": "b"}])


@pytest.mark.parametrize(("name", "value"), [("code", "c2, modified"), ("data", "d2"), ("packages", "torch 3")])
def test_what_differs_is_named(name, value):
    with pytest.raises(
        ValueError, match=rf"agree on the {name}: rank 0 on a has {FACTS[name]}, rank 2 on b has {value}"
    ) as e:
        compare([FACTS, FACTS, {**FACTS, "host": "b", name: value}])
    assert "(1 of 3 differ)" in str(e.value)


def test_a_single_process_agrees_with_itself():
    Agreement().setup(None, None, "fit")


@pytest.mark.filterwarnings("ignore")
def test_a_rank_that_finds_nobody_says_so(monkeypatch, capsys):
    words = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0, "MASTER_PORT": 1}
    for name, value in {**words, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)  # Lightning sets it too, and would leave it so
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={ROOT}/configs/clip.yaml", f"--config={ROOT}/configs/recipes/ddp.yaml", *SHORT,
              "--trainer.devices=2", "--trainer.accelerator=cpu", "--trainer.strategy.timeout=0:00:01"])  # fmt: skip
    assert stopped.value.code == 2
    assert "rank 1 cannot connect to the others at 127.0.0.1:1: " in capsys.readouterr().err


def test_the_advice_names_the_settings_that_help():
    assert "NCCL_SOCKET_IFNAME" in unconnected(RuntimeError(""))
