"""Every setting that a config advertises, under the conditions that users have.

A row is one setting of a config's or recipe's header (`tests/lightning_modules/advertised.py` reads them, so a new one
is covered) with one choice of each condition:

    precision   32-true, bf16-mixed, bf16-true
    ranks       one; two by DDP; two by FSDP2
    steps       clipped to a norm; two batches accumulated, of an odd number of batches an epoch; both
    cached      gradient caching in parts of three images, or not
    resumed     stopped inside an epoch with a temperature at its bound, an average kept (but in bf16-true), and gone
                on; or not

Not the full product: the choices cover all pairs of conditions, and each condition with each method; a test says so.
Data are uneven: captions of one sentence or two, many boxes or none, so that ranks differ in crops, texts and parts.
Each row is held against the same run on one rank in fp32. `make test-slow` has the rows by which all pairs are covered,
in a minute and a half of processor time; `make test-long` has the others, one for each setting that is left.

A few rows more, one for each method, make three passes over a thousand samples of which one is bad.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from typing import get_args

import pytest
import torch

from datamodules.batching.image_transforms import normalise
from lightning_modules.methods.gradient_cache import MemoryConfig
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny import make_sample, write_tar
from tests.lightning_modules.advertised import OF_RECIPES, Setting, build, in_header, settings
from tests.lightning_modules.conditions import LIMIT, Conditions, Precision, Ranks, Steps, run, run_all, told
from tests.lightning_modules.ranked_run import write_uneven

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]
SETTINGS = settings()
CHOICES = {
    "precision": get_args(Precision), "ranks": get_args(Ranks), "steps": get_args(Steps),
    "cached": (False, True), "resumed": (False, True),
}  # fmt: skip
FAST = (
    "--model.init_args.optim.lr=3e-3", "--model.init_args.optim.eps=1e-3", "--model.init_args.optim.warmup_steps=1",
    "--model.init_args.optim.added_modules_lr=3e-3",  # a recipe's own may move weights by less than bf16 rounds them
    "--data.batches_per_epoch=3", "--data.train_transform=datamodules.Squash",
)  # fmt: skip
PASSES = (
    *(one for one in FAST if "batches_per_epoch" not in one),
    "--data.global_batch_size=100", "--data.val_batch_size=24",
)  # fmt: skip
SAMPLES, BAD = 1000, 617
# Of losses and of the way that weights went: how far a run may be from one rank's in fp32.
NEAR = {"32-true": (1e-5, 1e-3), "bf16-mixed": (0.03, 0.5), "bf16-true": (0.06, 0.6)}


def method_of(setting: Setting) -> str:
    return OF_RECIPES.get(setting.config, setting.config)


def pairs(setting: Setting, conditions: Conditions) -> set[tuple]:
    """The pairs that a row covers: pairs of conditions, and of the method and a condition."""
    chosen = [("method", method_of(setting)), *zip(CHOICES, conditions, strict=False)]
    return {tuple(sorted(pair)) for pair in combinations(chosen, 2)}


def fits(setting: Setting, conditions: Conditions) -> bool:
    """Two ranks are not one where negatives are a rank's own images, as they are in the published numerics too."""
    own = ("negatives=", "published_numerics=true")
    return conditions.ranks == "one" or not any(name in word for word in setting.overrides for name in own)


def design() -> list[tuple[Setting, Conditions]]:
    """For one setting after the other the conditions that cover most of what is not covered yet."""
    rows: list[tuple[Setting, Conditions]] = []
    seen: dict[tuple, int] = {}
    for setting in SETTINGS:
        every = [one for one in (Conditions(*choice) for choice in product(*CHOICES.values())) if fits(setting, one)]
        best = min(every, key=lambda one: sorted(seen.get(pair, 0) for pair in pairs(setting, one)))
        for pair in pairs(setting, best):
            seen[pair] = seen.get(pair, 0) + 1
        rows.append((setting, best))
    return rows


ROWS = design()
PASSED = [
    (Setting(config, "as it stands"), conditions._replace(passes=3))
    for config, conditions in {
        "clip": Conditions("32-true", "ddp", "clipped"),
        "multi_positive": Conditions("32-true", "one", "both"),
        "beta_ce": Conditions("bf16-mixed", "ddp", "accumulated"),
        "beta_bce": Conditions("bf16-true", "fsdp2", "clipped"),
        "mulclip": Conditions("32-true", "fsdp2", "both"),
        "harmoclip": Conditions("bf16-mixed", "ddp", "clipped", cached=True),
        "grainclip": Conditions("bf16-mixed", "fsdp2", "both"),
    }.items()
]
FIRST = [row for i, row in enumerate(ROWS) if pairs(*row) - set().union(*(pairs(*before) for before in ROWS[:i]))]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_uneven(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A thousand samples of which one has no image."""
    samples = (make_sample(n % 64, key=f"{n:06d}").members() for n in range(SAMPLES))
    samples = (one | {"jpg": b"no image"} if n == BAD else one for n, one in enumerate(samples))
    return [str(write_tar(tmp_path_factory.mktemp("thousand") / "train-000.tar", samples))]


@pytest.fixture(scope="module")
def built(shards, thousand):
    """Each setting's model and data, as `lightning fit` makes them; for whole passes those over the thousand."""
    made = {}

    def of(setting, passes=0):
        if (setting, passes) not in made:
            more = [*PASSES, f"--data.shards={thousand}"] if passes else FAST
            made[setting, passes] = build(setting, shards, *more)
        return made[setting, passes]

    return of


def job(built, row, folder):
    setting, conditions = row
    method, data = built(setting, conditions.passes)
    method.memory = MemoryConfig(3 if conditions.cached else None, method.memory.activation_checkpointing)
    start = 0.001 if conditions.resumed else 2.659  # of log_scale: just above its bound, or CLIP's
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if name.endswith("encoder.temperature.log_scale"):
                parameter.fill_(start)
    return method, data, conditions, str(folder / f"{[*ROWS, *PASSED].index(row)}.ckpt")


@pytest.fixture(scope="module")
def outcomes(built, tmp_path_factory):
    """Of a row, on each of its ranks; those of one kind all at once, on two ranks in one world."""
    known = {}

    def of(row):
        if row not in known:
            folder = tmp_path_factory.mktemp("checkpoints")
            others = [one for one in ROWS if one not in FIRST]
            rows = next(kind for kind in (FIRST, others, PASSED) if row in kind)
            together = [one for one in rows if one[1].ranks != "one"]
            ranks = run_on_ranks(run_all, 2, [job(built, one, folder) for one in together])
            known.update({one: [rank[i] for rank in ranks] for i, one in enumerate(together)})
            known.update({one: [told(*job(built, one, folder))] for one in rows if one[1].ranks == "one"})
        assert not any(isinstance(rank, str) for rank in known[row]), known[row][0]
        return known[row]

    return of


def test_the_notation_of_headers():
    text = "# A title\n#   lightning fit --config x.yaml\n#   one   --model.a.b 1 (or 2, x); .c '[{d: 4}]' (as in E)\n"
    text += "#   both   --model.a 1 --data.b 2    (a word: none)\nmodel:\n#   no --model.a 1\n"
    assert list(in_header(text)) == [
        ("one", ("--model.a.b=1",)),
        ("one", ("--model.a.b=2",)),
        ("one", ("--model.a.b=x",)),
        ("one", ("--model.a.c=[{d: 4}]",)),
        ("both", ("--model.a=1", "--data.b=2")),
    ]
    assert len(SETTINGS) > 60
    assert len(set(SETTINGS)) == len(SETTINGS)


def test_the_rows_cover_all_pairs():
    every = [pairs(setting, Conditions(*choice)) for setting in SETTINGS for choice in product(*CHOICES.values())]
    covered = set().union(*(pairs(*row) for row in ROWS))
    missing = set().union(*every) - covered
    counts = Counter(method_of(setting) for setting in SETTINGS)
    few = {("method", method) for method, count in counts.items() if count < 3}
    assert {pair for pair in missing if not few & {*pair}} == set()
    assert len(few) <= 3


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.label)
def test_every_trainable_parameter_has_a_gradient(setting, built):
    method, data = built(setting)
    torch.manual_seed(0)
    kept = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    with torch.no_grad():
        for parameter in method.parameters():  # a block that starts as nothing passes no gradient on
            parameter += 0.01 * torch.randn_like(parameter)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    pixels = normalise(batch.images)
    batch = batch._replace(images=pixels, crops=batch.crops._replace(pixels=normalise(batch.crops.pixels)))
    terms = method.losses(batch, method.features(batch))
    assert all(term.isfinite() for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    trained = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    method.zero_grad()
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            parameter.copy_(kept[name])
    assert [name for name, grad in trained.items() if grad is None] == []
    still = [name for name, grad in trained.items() if not grad.any()]
    assert [name for name in still if not name.endswith("k_proj.bias")] == []  # which softmax does not feel
    assert all(grad.isfinite().all() for grad in trained.values())


def rows(*wanted):
    """Those of ``wanted`` as parameters of a test, named."""
    long = [pytest.mark.long]
    return [
        pytest.param(row, id=f"{row[0].label} {row[1].label}", marks=() if row in FIRST else long) for row in wanted
    ]


@pytest.mark.slow
@pytest.mark.parametrize("row", rows(*ROWS))
def test_a_run_is_one_ranks_in_fp32(row, built, outcomes, tmp_path):
    setting, conditions = row
    ranks = [parts[0] for parts in outcomes(row)]
    plain = conditions._replace(precision="32-true", ranks="one", cached=False)
    whole = run(*job(built, (setting, conditions), tmp_path)[:2], plain) if plain != conditions else ranks[0]
    near, way = NEAR[conditions.precision]
    losses = torch.tensor([rank.losses for rank in ranks]).mean(0)
    first = 1 if conditions.steps == "clipped" else 2  # batches before the first step
    torch.testing.assert_close(losses[:first], torch.tensor(whole.losses)[:first], rtol=near, atol=near)
    torch.testing.assert_close(losses, torch.tensor(whole.losses), rtol=10 * near, atol=10 * near)
    together = [[key for part in step for key in part] for step in zip(*(rank.keys for rank in ranks), strict=True)]
    assert together == [list(keys) for keys in whole.keys]
    for name, value in ranks[0].validated.items():
        assert value == pytest.approx(whole.validated[name], rel=10 * near)
    if conditions.steps != "accumulated":
        assert all(norm <= LIMIT * (1 + near) for norm in ranks[0].norms)
    assert compare(ranks[0], whole) < way


@pytest.mark.long
@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row[0].label} {row[1].label}") for row in PASSED])
def test_one_bad_sample_in_a_thousand_ends_no_run_and_doubles_one_sample_a_pass(row, built, outcomes, tmp_path):
    setting, conditions = row
    ranks = [parts[0] for parts in outcomes(row)]
    assert sorted(skip for rank in ranks for skip in rank.skipped) == [(n, f"{BAD:06d}") for n in range(3)]
    batches = [[key for part in step for key in part] for step in zip(*(rank.keys for rank in ranks), strict=True)]
    assert [len(batch) for batch in batches] == [100] * 30
    good = {f"{n:06d}" for n in range(SAMPLES) if n != BAD}
    for n in range(3):  # exactly once each, but for the one in the bad one's place
        assert {key for batch in batches[10 * n : 10 * n + 10] for key in batch} == good
    plain = conditions._replace(precision="32-true", ranks="one", cached=False)
    whole = run(*job(built, (setting, conditions), tmp_path)[:2], plain) if plain != conditions else ranks[0]
    assert batches == [list(keys) for keys in whole.keys]
    near = 10 * NEAR[conditions.precision][0]
    losses = torch.tensor([rank.losses for rank in ranks]).mean(0)
    torch.testing.assert_close(losses, torch.tensor(whole.losses), rtol=near, atol=near)


def compare(found, wanted):
    """Distance of the final weights from the expected ones, as a share of the distance from the start; of the weights
    that training moves. The others are where they were, but for the rounding of a precision that keeps them in bf16.
    """
    every = [name for name in wanted.weights if not name.startswith("averaged.")]
    names = [name for name in every if not torch.equal(wanted.weights[name], wanted.started[name])]
    for name in set(every) - set(names):
        torch.testing.assert_close(found.weights[name], wanted.started[name], rtol=2**-8, atol=1e-5, msg=name)
    off = torch.cat([(found.weights[n] - wanted.weights[n]).flatten() for n in names]).norm()
    return (off / torch.cat([(wanted.weights[n] - wanted.started[n]).flatten() for n in names]).norm()).item()


@pytest.mark.slow
@pytest.mark.parametrize("row", rows(*(row for row in ROWS if row[1].resumed)))
def test_a_run_resumed_at_the_bound_ends_in_the_same_bits(row, outcomes):
    for whole, rest in outcomes(row):
        assert rest.losses == whole.losses[-len(rest.losses) :]
        assert len(rest.losses) < len(whole.losses)
        if row[1].ranks == "fsdp2" and not whole.weights:
            continue  # they are put together on the first rank
        assert any(name.startswith("averaged.") for name in rest.weights) == (row[1].precision != "bf16-true")
        for name, weight in whole.weights.items():
            assert torch.equal(rest.weights[name], weight), name
