"""Whole training runs on one rank and on several, by DDP and by FSDP2: the same losses, the same weights; checkpoints
that go on with another number of ranks, and that `lightning export` reads.

Samples have few or many texts, and boxes or none, so that ranks differ in all of these. ``make test-long`` has every
method on 2 and on 4 ranks, by both strategies.
"""

from __future__ import annotations

import io
import pickle
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from lightning_modules.checkpoints.atomic_save import AtomicCheckpointIO, CheckpointError, is_whole, put_in_place
from lightning_modules.checkpoints.sharded import _WholePlanner, put_together
from lightning_modules.cli.evaluate import load_model
from lightning_modules.cli.export import export
from lightning_modules.cli.main import main
from lightning_modules.cli.read_checkpoint import encoder_of, read
from lightning_modules.distributed.fsdp2 import FullySharded
from tests.helpers.ranks import run_on_ranks
from tests.lightning_modules.ranked_run import METHODS, Result, Spec, train, train_all, write_uneven

pytestmark = pytest.mark.filterwarnings("ignore")
BETA = Spec("beta_clip", "ddp")
SHARDED = Spec("mul_clip", "sharded", save="sharded.ckpt")
WHOLE = Spec("harmo_clip", "whole", steps=10, accumulate=2, clip=0.1, save="whole.ckpt")
CACHED = Spec("beta_clip", "whole", steps=4, grad_cache_chunk=3, recompute=True)
EXTRAS = [Spec("beta_clip", strategy, steps=4, averaged=True, compiled=True) for strategy in ("ddp", "whole")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return write_uneven(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def alone(shards):
    """The result of a run on one rank, without any strategy."""
    known: dict[Spec, Result] = {}

    def result(spec: Spec) -> Result:
        spec = replace(spec, strategy="ddp", save=None, resume=None, compiled=False)
        if spec not in known:
            known[spec] = train(spec, shards, 1)
        return known[spec]

    return result


def placed(spec: Spec, folder: Path) -> Spec:
    return replace(spec, save=spec.save and str(folder / spec.save), resume=spec.resume and str(folder / spec.resume))


@pytest.fixture(scope="module")
def two(shards, folder) -> dict[Spec, list[Result]]:
    """Several runs in one world of two ranks."""
    specs = [BETA, SHARDED, WHOLE, CACHED, *EXTRAS]
    ranks = run_on_ranks(train_all, 2, [placed(spec, folder) for spec in specs], shards)
    return {spec: [rank[i] for rank in ranks] for i, spec in enumerate(specs)}


def check_alike(ranks: list[Result], whole: Result, last: int | None = None) -> None:
    """Losses, samples and weights of all ranks together are one rank's (its ``last`` batches where only these ran)."""
    start = 0 if last is None else len(whole.losses) - last
    losses = torch.tensor([rank.losses for rank in ranks]).mean(0)
    torch.testing.assert_close(losses, torch.tensor(whole.losses[start:]), rtol=1e-6, atol=1e-6)
    together = [[key for part in parts for key in part] for parts in zip(*(rank.keys for rank in ranks), strict=True)]
    assert together == [list(keys) for keys in whole.keys[start:]]
    assert set(ranks[0].weights) == set(whole.weights)
    for name, weight in whole.weights.items():
        torch.testing.assert_close(ranks[0].weights[name], weight, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [BETA, SHARDED, WHOLE, CACHED], ids=lambda s: f"{s.method}-{s.strategy}")
def test_two_ranks_are_one(spec, two, alone):
    check_alike(two[spec], alone(spec))
    moved = alone(spec).weights["encoder.image_tower.projection.weight"]
    assert (moved - alone(replace(spec, steps=0)).weights["encoder.image_tower.projection.weight"]).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("spec", EXTRAS, ids=lambda s: s.strategy)
def test_the_average_and_compiled_blocks_on_two_ranks(spec, two, alone):
    check_alike(two[spec], alone(spec))
    weights = two[spec][0].weights
    name = "image_tower.projection.weight"
    assert (weights[f"averaged.{name}"] - weights[f"encoder.{name}"]).abs().max() > 1e-5


@pytest.mark.slow
def test_the_same_run_again_is_the_same_to_the_last_bit(two, shards):
    """In other processes."""
    again = run_on_ranks(train_all, 2, [EXTRAS[0]], shards)
    for rank, before in enumerate(two[EXTRAS[0]]):
        assert again[rank][0].losses == before.losses
        for name, weight in before.weights.items():
            assert torch.equal(again[rank][0].weights[name], weight), name


@pytest.mark.slow
def test_gradients_meet_once_per_step(two):
    """While they accumulate they stay where they are."""
    assert [rank.reduced for rank in two[WHOLE]] == [10, 10]
    assert [rank.reduced for rank in two[SHARDED]] == [20, 20]


@pytest.mark.slow
def test_a_whole_checkpoint_of_two_ranks_goes_on_alone(two, alone, folder, shards):
    resumed = train(placed(replace(WHOLE, strategy="ddp", save=None, resume=WHOLE.save), folder), shards, 1)
    check_alike([resumed], alone(WHOLE), last=10)


@pytest.mark.slow
def test_a_sharded_checkpoint_of_two_ranks_goes_on_with_one(two, alone, folder, shards):
    assert sorted(p.name for p in (folder / "sharded.ckpt").iterdir()) == [
        ".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt",
    ]  # fmt: skip
    spec = placed(replace(SHARDED, save=None, resume=SHARDED.save), folder)
    check_alike(run_on_ranks(train_all, 1, [spec], shards)[0], alone(SHARDED), last=10)


def test_a_sharded_checkpoint_becomes_one_file(two, alone, folder, shards, tmp_path, capsys):
    """From which a run goes on without FSDP2."""
    path = folder / "sharded.ckpt"
    with pytest.raises(CheckpointError, match=r"is a folder of slices, for FSDP2: .* --format checkpoint`"):
        AtomicCheckpointIO().load_checkpoint(path)
    assert main(["export", str(path), str(tmp_path / "one.ckpt"), "--format", "checkpoint"]) == 0
    spec = replace(SHARDED, strategy="ddp", save=None, resume=str(tmp_path / "one.ckpt"))
    check_alike([train(spec, shards, 1)], alone(SHARDED), last=10)
    with pytest.raises(SystemExit):
        main(["export", str(path), str(tmp_path / "one.ckpt"), "--format", "checkpoint"])
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sharded.ckpt", "whole.ckpt"])
def test_export_reads_both(two, folder, tmp_path, name):
    saved = read(folder / name)
    encoder = encoder_of(saved)
    weight = saved["state_dict"]["encoder.image_tower.projection.weight"]
    assert torch.equal(encoder.image_tower.projection.weight, weight)
    export(folder / name, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    model, words = load_model(str(folder / name), torch.device("cpu"))
    assert words["steps"] == saved["global_step"]
    texts = ["a red cube", "a ball beside a cone"]
    exported, _ = load_model(str(tmp_path / "model"), torch.device("cpu"))
    torch.testing.assert_close(model.encode_text(texts), exported.encode_text(texts))


def test_a_damaged_sharded_checkpoint_is_told(two, folder, tmp_path):
    broken = tmp_path / "broken.ckpt"
    broken.mkdir()
    for file in (folder / "sharded.ckpt").iterdir():
        data = file.read_bytes()
        (broken / file.name).write_bytes(data[: len(data) // 20] if file.suffix == ".distcp" else data)
    with pytest.raises(ValueError, match="truncated or damaged"):
        read(broken)
    (broken / "meta.pt").unlink()
    with pytest.raises(ValueError, match="holds no sharded checkpoint"):
        read(broken)


class Runs:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_folder_of_somebody_elses_runs_no_code(two, folder, tmp_path):
    """Neither its list of slices, by being looked at, nor the numbers beside its tensors."""
    bad, ran = tmp_path / "last.ckpt", tmp_path / "ran"
    shutil.copytree(folder / "sharded.ckpt", bad)
    (bad / ".metadata").write_bytes(pickle.dumps(Runs(ran)))
    assert not is_whole(bad)
    with pytest.raises(ValueError, match=r"\.metadata is damaged: it names pathlib\.Path\.touch|it names pathlib"):
        read(bad)
    with pytest.raises(ValueError, match="truncated or damaged"):
        put_together(bad)
    (bad / ".metadata").write_bytes(pickle.dumps([1, 2]))
    assert not is_whole(bad)
    (bad / ".metadata").write_bytes(b"\x80\x04cno.such.module\nname\n.")
    assert not is_whole(bad)
    bytes_of_it = io.BytesIO()
    torch.save(Runs(ran), bytes_of_it)
    bytes_of_it.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        _WholePlanner().load_bytes(None, bytes_of_it)
    assert not ran.exists()


@pytest.mark.parametrize("stem", ["last", "best"])
def test_one_of_both_folders_is_always_whole(two, folder, tmp_path, stem):
    new, path = tmp_path / f"writing-{stem}.ckpt", tmp_path / f"{stem}.ckpt"
    for number in range(3):
        shutil.copytree(folder / "sharded.ckpt", new)
        (new / "number").write_text(str(number))
        put_in_place(new, path)
        assert (path / "number").read_text() == str(number)
        kept = tmp_path / f"{stem}-0.ckpt"
        assert sorted(tmp_path.iterdir()) == ([kept, path] if number and stem == "last" else [path])
    (path / "__0_0.distcp").write_bytes(b"cut short")
    shutil.copytree(folder / "sharded.ckpt", new)
    put_in_place(new, path)
    assert is_whole(path)
    assert stem == "best" or (kept / "number").read_text() == "1"


def test_checkpoint_is_checked():
    with pytest.raises(ValueError, match=r"strategy\.checkpoint must be sharded or whole, got 'both'"):
        FullySharded("both")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("world", [2, 4])
def test_every_method_on_every_number_of_ranks(world, alone, shards, capsys):
    specs = [Spec(method, strategy) for method, strategy in product(METHODS, ("ddp", "whole"))]
    ranks = run_on_ranks(train_all, world, specs, shards)
    for i, spec in enumerate(specs):
        mine, whole = [rank[i] for rank in ranks], alone(spec)
        check_alike(mine, whole)
        losses = torch.tensor([rank.losses for rank in mine]).mean(0) - torch.tensor(whole.losses)
        weights = [(mine[0].weights[name] - weight).abs().max().item() for name, weight in whole.weights.items()]
        with capsys.disabled():
            print(f"\n{spec.method}, {spec.strategy}, {world} ranks and one, {spec.steps} steps: largest ", end="")
            print(f"difference of a loss {losses.abs().max():.1e}, of a weight {max(weights):.1e}", end="")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_sharded_from_two_to_four_and_from_four_to_two(two, alone, folder, shards):
    on = placed(replace(SHARDED, save=None, resume=SHARDED.save), folder)
    fresh = replace(SHARDED, save=str(folder / "of_four.ckpt"))
    ranks = run_on_ranks(train_all, 4, [on, fresh], shards)
    check_alike([rank[0] for rank in ranks], alone(SHARDED), last=10)
    back = run_on_ranks(train_all, 2, [replace(fresh, save=None, resume=fresh.save)], shards)
    check_alike([rank[0] for rank in back], alone(SHARDED), last=10)
