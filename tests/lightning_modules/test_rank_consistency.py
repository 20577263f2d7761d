"""Ranks that differ are stopped with one clear line, and so is a rank that does not find the others."""

from __future__ import annotations

import json

import pytest
import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.distributed import DistBackendError

from datamodules.batch import Grain
from lightning_modules import OptimConfig
from lightning_modules.callbacks import rank_consistency
from lightning_modules.callbacks.rank_consistency import RankConsistency, compare
from lightning_modules.cli.main import main
from lightning_modules.cli.trainer import unconnected
from losses import SoftmaxWeights
from tests.helpers.tiny import write_shards
from tests.helpers.warm_ranks import WarmRanks
from tests.lightning_modules.test_cli import ROOT, SHORT, elsewhere  # noqa: F401  a fixture

TWO = ["--trainer.devices=2", "--trainer.accelerator=cpu"]
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
    RankConsistency().setup(None, None, "fit")


@pytest.mark.filterwarnings("ignore")
def test_a_rank_that_finds_nobody_says_so(monkeypatch, capsys):
    words = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0, "MASTER_PORT": 1}
    for name, value in {**words, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)  # Lightning sets it too, and would leave it so
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={ROOT}/configs/clip.yaml", f"--config={ROOT}/configs/recipes/ddp.yaml", *SHORT,
              *TWO, "--trainer.strategy.timeout=0:00:01"])  # fmt: skip
    assert stopped.value.code == 2
    assert "rank 1 cannot connect to the others at 127.0.0.1:1: " in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_a_connection_that_is_made_late_and_fails_says_so(monkeypatch, capsys, tmp_path):
    """NCCL's, at the first exchange."""

    def fails(*args, **kwargs):
        raise DistBackendError("NCCL error: no route")

    monkeypatch.setattr(SingleDeviceStrategy, "barrier", fails)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={ROOT}/configs/clip.yaml", *SHORT, "--trainer.accelerator=cpu",
              f"--runs={tmp_path}"])  # fmt: skip
    assert stopped.value.code == 2
    assert "NCCL error: no route. Does every node reach this address" in capsys.readouterr().err


def fit_differing(kind: str, folder: str, shards: list[str]) -> None:
    """A rank that differs from the other in one thing."""
    rank = dist.get_rank()
    if kind == "code" and rank:
        rank_consistency.commit = lambda: "another one"
    mine = shards[: 2 - rank] if kind == "data" else shards
    beta = 0.25 if kind == "settings of the model" and rank else 0.5
    main(["fit", f"--config={ROOT}/configs/beta_bce.yaml", f"--config={ROOT}/configs/recipes/ddp.yaml", *SHORT, *TWO,
          f"--data.shards={json.dumps(mine)}", f"--model.beta={beta}",
          f"--runs={folder}"])  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_that_differ_stop_with_one_line(tmp_path):
    shards = [str(path) for path in write_shards(tmp_path / "shards", 32, 2)]
    with WarmRanks(__name__) as warm:
        for number, kind in enumerate(("code", "data", "settings of the model")):
            folder = tmp_path / str(number)
            pids = warm.start(folder, fit_differing, 2, kind, str(tmp_path), shards)
            assert warm.wait(pids, 120) == [2, 2]
            for rank in range(2):
                said = (folder / f"{rank}.out").read_text().splitlines()[-1]
                assert said.startswith(f"lightning: error: ranks must agree on the {kind}: rank 0 on ")
                assert said.endswith("(1 of 2 differ)")


def test_the_advice_names_the_settings_that_help():
    assert "NCCL_SOCKET_IFNAME" in unconnected(RuntimeError(""))


def test_settings_are_compared_by_what_they_hold():
    """Objects that print alike, too."""
    digest = rank_consistency._digest
    assert digest({"aggregation": SoftmaxWeights(0.5)}) == digest({"aggregation": SoftmaxWeights(0.5)})
    assert digest({"aggregation": SoftmaxWeights(0.5)}) != digest({"aggregation": SoftmaxWeights(0.07)})
    assert digest([1, Grain.CAPTION]) != digest([1, Grain.PHRASE])
    assert digest(OptimConfig(lr=1e-3)) != digest(OptimConfig(lr=1e-4))
