from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from losses import BetaCalLoss, ClipLoss
from losses.core import pairs
from tests.helpers.golden import GOLDEN
from tests.losses.oracle import oracle_bce, oracle_ce, random_case


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setitem(pairs.TILE, "cpu", 5)


def check(loss, case, oracle):
    """Value and gradients of ``loss`` against an oracle of the case; gradients in padded slots must be zero."""
    ours, theirs = case.leaves(), case.leaves()
    value, expected = loss(*ours), oracle(theirs)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    for ours_grad, their_grad in zip(ours.grads(), theirs.grads(), strict=True):
        torch.testing.assert_close(ours_grad, their_grad, rtol=1e-9, atol=1e-12)
    assert not ours.grads()[0][~case.valid].any()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("negatives", ["all", "rank", 1, 2])
@pytest.mark.parametrize(("ids", "weights"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("beta", "alpha"), [(0.0, 1.0), (0.5, 1.0), (1.0, 0.3)])
def test_ce_is_the_equations(beta, alpha, ids, weights, negatives):
    block = negatives if isinstance(negatives, int) else None
    case = random_case(images=4, ids=ids, weights=weights)
    loss = BetaCalLoss("ce", beta, alpha, negatives=negatives)
    check(loss, case, lambda c: oracle_ce(c, beta, alpha, block))


def test_a_text_that_stands_twice_in_an_image_is_not_told_apart_from_itself():
    """A caption that is its only sentence: views that fit their texts leave no loss."""
    texts = torch.eye(8, dtype=torch.float64).view(4, 2, 8)
    texts[:, 1] = texts[:, 0]
    ids, valid = torch.arange(4)[:, None].expand(4, 2), torch.ones(4, 2, dtype=torch.bool)
    assert BetaCalLoss("ce", 0.0)(texts, texts, valid, 100.0, ids) < 1e-12
    assert BetaCalLoss("ce", 0.0)(texts, texts, valid, 100.0) == pytest.approx(math.log(2))


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("weights", [False, True])
def test_ce_with_texts_that_repeat_within_images(beta, weights):
    case = random_case(images=4, texts=6, ids=True, weights=weights)
    case = case._replace(text_id=torch.arange(24).view(4, 6) // 3 % 7)
    assert not case.valid.all()
    check(BetaCalLoss("ce", beta), case, lambda c: oracle_ce(c, beta))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("negatives", ["all", 2])
@pytest.mark.parametrize(("ids", "weights"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("beta", "normalize_by"), [(0.0, "pair"), (0.5, "row"), (0.5, "pair"), (1.0, "row")])
def test_bce_is_the_equations(beta, normalize_by, ids, weights, negatives):
    block = negatives if isinstance(negatives, int) else None
    case = random_case(images=4, ids=ids, weights=weights)
    check(
        BetaCalLoss("bce", beta, negatives=negatives, normalize_by=normalize_by),
        case,
        lambda c: oracle_bce(c, beta, 0.0, normalize_by, block),
    )


@pytest.mark.usefixtures("small_tiles")
def test_bce_bias_is_learned():
    case = random_case(ids=True, weights=True)
    loss = BetaCalLoss("bce", bias=-2.0).double()
    assert loss.bias is not None
    check(loss, case, lambda c: oracle_bce(c, 0.5, -2.0))
    bias = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(oracle_bce(case, 0.5, bias), bias)
    torch.testing.assert_close(loss.bias.grad, expected)


@pytest.mark.parametrize("loss", [BetaCalLoss("ce"), BetaCalLoss("bce", normalize_by="row", bias=-1.0).double()])
def test_gradcheck(loss):
    case = random_case(images=3, texts=3, width=3, ids=True, weights=True)
    pooled, text = (x.nan_to_num(0.1).requires_grad_() for x in case[:2])
    scale = case.scale.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t, s: loss(p, t, case.valid, s, *case[4:]), (pooled, text, scale))


@pytest.mark.parametrize("objective", ["ce", "bce"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("kind", "published_numerics"), [("full", True), ("full", False), ("padded", True)])
def test_golden(objective, beta, kind, published_numerics):
    name = f"beta_cal_{objective}_beta{beta}_{kind}"
    alpha = json.loads((GOLDEN / "index.json").read_text())[name]["alpha"]
    golden = load_file(GOLDEN / f"{name}.safetensors")
    pooled, text, scale = (golden[key].requires_grad_() for key in ("pooled", "text", "scale"))
    loss = BetaCalLoss(objective, beta, alpha, published_numerics)
    value = loss(normalize(pooled, dim=-1), normalize(text, dim=-1), golden["valid"], scale)
    value.backward()
    torch.testing.assert_close(value, golden["loss"], rtol=1e-5, atol=0)
    for key, leaf in {"grad_pooled": pooled, "grad_text": text, "grad_scale": scale}.items():
        assert leaf.grad is not None
        assert (leaf.grad - golden[key]).norm() <= 1e-4 * golden[key].norm()


@pytest.mark.parametrize("objective", ["ce", "bce"])
def test_reference_is_ours_where_nothing_is_padded(objective):
    case = random_case()
    case = case._replace(**{k: getattr(case, k).nan_to_num(0.2) for k in ("pooled", "text")}, valid=case.valid | True)
    check(
        BetaCalLoss(objective, 0.3, 0.7), case, lambda c: BetaCalLoss(objective, 0.3, 0.7, published_numerics=True)(*c)
    )


@pytest.mark.parametrize("objective", ["ce", "bce"])
def test_order_of_images_and_texts_does_not_matter(objective):
    case = random_case(ids=True, weights=True)
    images, texts = torch.randperm(5), torch.randperm(4)
    moved = case._replace(**{k: x[images][:, texts] for k, x in case._asdict().items() if k != "scale"})
    torch.testing.assert_close(BetaCalLoss(objective)(*moved), BetaCalLoss(objective)(*case))


@pytest.mark.parametrize("objective", ["ce", "bce"])
def test_wider_padding_changes_nothing(objective):
    case = random_case(ids=True, weights=True)
    pad = {"pooled": math.nan, "text": math.inf, "valid": False, "text_id": 0, "weight": math.nan}
    wide = case._replace(
        **{k: torch.cat([x, torch.full_like(x[:, :1], pad[k])], 1) for k, x in case._asdict().items() if k in pad}
    )
    torch.testing.assert_close(BetaCalLoss(objective)(*wide), BetaCalLoss(objective)(*case), rtol=1e-14, atol=0)


def test_one_text_and_no_beta_is_the_loss_of_clip():
    case = random_case(texts=1, ids=True)
    clip = ClipLoss()
    check(
        BetaCalLoss("ce", beta=0.0),
        case,
        lambda c: clip(c.pooled[:, 0], c.text[:, 0], c.scale, c.valid[:, 0], c.text_id[:, 0]),
    )


def test_masked_duplicates_are_removed_pairs():
    """Two images share one text: by hand, without that text's column (row) in the other image's row (column)."""
    case = random_case(images=3, texts=1, seed=3)._replace(valid=torch.ones(3, 1, dtype=torch.bool))
    case = case._replace(**{k: getattr(case, k).nan_to_num(0.3) for k in ("pooled", "text")})
    z = case.scale * case.pooled[:, 0] @ case.text[:, 0].T
    keep = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
    masked = z.masked_fill(~keep, -math.inf)
    by_hand = -(masked.log_softmax(1).diagonal() + masked.log_softmax(0).diagonal()).mean() / 2
    text_id = torch.tensor([[7], [7], [8]])
    torch.testing.assert_close(BetaCalLoss("ce")(*case[:4], text_id=text_id), by_hand)
    pairs_left = torch.where(torch.eye(3) > 0, -z, z)[keep]
    by_hand = torch.nn.functional.softplus(pairs_left).mean()
    torch.testing.assert_close(BetaCalLoss("bce")(*case[:4], text_id=text_id), by_hand)


@pytest.mark.parametrize("objective", ["ce", "bce"])
@pytest.mark.parametrize("published_numerics", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 0, 4), (0, 2, 4)])
def test_no_text_is_zero_on_the_graph(objective, published_numerics, shape):
    pooled, text = (torch.randn(shape, requires_grad=True) for _ in range(2))
    scale = torch.tensor(5.0, requires_grad=True)
    loss = BetaCalLoss(objective, published_numerics=published_numerics)(
        pooled, text, torch.zeros(shape[:2], dtype=torch.bool), scale
    )
    loss.backward()
    assert loss.item() == 0
    for x in (pooled, text, scale):
        assert x.grad is not None
        assert not x.grad.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "mse"}, 'objective must be "ce" or "bce", got \'mse\''),
        ({"beta": 1.5}, r"beta must lie in \[0, 1\], got 1.5"),
        ({"beta": math.nan}, "beta must lie"),
        ({"alpha": 0.0}, "alpha must be above 0, got 0.0"),
        ({"normalize_by": "batch"}, 'normalize_by must be "pair" or "row"'),
        ({"negatives": 0}, "negatives must be"),
        ({"negatives": "node"}, "negatives must be"),
        ({"bias": -10.0}, 'belong to objective "bce"'),
        ({"published_numerics": True, "negatives": 4}, "published_numerics allows no other negatives"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BetaCalLoss(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": torch.zeros(5, 4, 7)}, r"both be \[B, K, D\], got \[5, 4, 6\] and \[5, 4, 7\]"),
        ({"valid": torch.zeros(5, 3, dtype=torch.bool)}, r"valid must be \[B, K\] = \[5, 4\], got \[5, 3\]"),
        ({"valid": torch.zeros(5, 4)}, "valid must be bool"),
        ({"text_id": torch.zeros(5)}, "text_id must be"),
        ({"weight": torch.zeros(4, 5)}, "weight must be"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_inputs(changes, message):
    with pytest.raises(ValueError, match=message):
        BetaCalLoss()(*random_case()._replace(**changes))


def test_reference_has_no_weights():
    with pytest.raises(ValueError, match="weight must be None"):
        BetaCalLoss(published_numerics=True)(*random_case(weights=True))
