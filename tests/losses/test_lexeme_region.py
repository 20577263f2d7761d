import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from losses import GlobalRegionLoss, LexemeRegionLoss
from losses.core import pairs
from tests.losses.region_oracle import RegionCase, lexeme_region, region_case

MODES = ("ignore", "positive", "negative")


def value_and_grads(loss, case):
    case = case.leaves()
    value = loss(case)
    value.backward()
    return value.detach(), [g.nan_to_num(0.0) for g in case.grads()]


@pytest.mark.parametrize("tile", [3, 2048])
@pytest.mark.parametrize("negatives", ["all", 1, 2])
@pytest.mark.parametrize("same_lemma", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_equations(seed, same_lemma, negatives, tile, monkeypatch):
    monkeypatch.setitem(pairs.TILE, "cpu", tile)
    case = region_case(seed)
    group = None if negatives == "all" else negatives
    expected, expected_grads = value_and_grads(lambda c: lexeme_region(c, same_lemma, group), case)
    value, grads = value_and_grads(lambda c: LexemeRegionLoss(same_lemma, negatives)(*c), case)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def test_without_repeated_lemmas_it_is_the_symmetric_infonce():
    g = torch.Generator().manual_seed(0)
    regions, lexemes = (normalize(torch.randn(7, 5, generator=g, dtype=torch.float64), dim=-1) for _ in range(2))
    image = torch.tensor([0, 0, 1, 2, 2, 2, 4])
    z, diagonal = 9.0 * regions @ lexemes.T, torch.arange(7)
    expected = (cross_entropy(z, diagonal) + cross_entropy(z.T, diagonal)) / 2
    links = torch.stack([diagonal, diagonal], 1)
    for same_lemma in MODES:
        value = LexemeRegionLoss(same_lemma)(regions, lexemes, links, 9.0, diagonal + 1, image, image)
        torch.testing.assert_close(value, expected)


def one_lemma():
    case = region_case(4)
    return case._replace(lemma=torch.full_like(case.lemma, 5))


def test_equal_lemmas_ignored_leave_nothing_to_tell_apart():
    case = one_lemma()
    assert LexemeRegionLoss("negative")(*case) > 0.1
    torch.testing.assert_close(LexemeRegionLoss("positive")(*case), case.scale * 0)
    linked = torch.stack([case.links[:, 0], case.links[:, 1]], 1).unique(dim=0)
    single = case._replace(links=linked[:1])
    torch.testing.assert_close(LexemeRegionLoss("ignore")(*single), case.scale * 0)


@pytest.mark.parametrize("same_lemma", MODES)
def test_order_changes_nothing(same_lemma):
    case = region_case(1)
    g = torch.Generator().manual_seed(2)
    rows, cols = torch.randperm(len(case.regions), generator=g), torch.randperm(len(case.lexemes), generator=g)
    mixed = RegionCase(
        case.regions[rows],
        case.lexemes[cols],
        torch.stack([rows.argsort()[case.links[:, 0]], cols.argsort()[case.links[:, 1]]], 1).flip(0),
        case.scale,
        case.lemma[cols],
        case.region_image[rows],
        case.lexeme_image[cols],
    )
    loss = LexemeRegionLoss(same_lemma)
    torch.testing.assert_close(loss(*mixed), loss(*case))


@pytest.mark.parametrize("same_lemma", MODES)
@pytest.mark.parametrize("regions", [0, 4])
def test_no_link_gives_zero_attached_to_the_graph(regions, same_lemma):
    vectors = torch.randn(regions, 5, requires_grad=True)
    image = torch.arange(regions)
    loss = LexemeRegionLoss(same_lemma)(
        vectors, vectors, torch.zeros(0, 2, dtype=torch.long), torch.tensor(3.0), torch.ones_like(image), image, image
    )
    assert loss == 0
    loss.backward()
    assert vectors.grad is not None
    assert not vectors.grad.any()


def test_half_precision_keeps_its_sums_in_float32():
    case = region_case(3)
    single = case._replace(regions=case.regions.float(), lexemes=case.lexemes.float(), scale=case.scale.float())
    expected = LexemeRegionLoss()(*single)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(LexemeRegionLoss()(*single), expected)


@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="same_lemma must be ignore, positive or negative, got 'drop'"):
        LexemeRegionLoss("drop")
    with pytest.raises(ValueError, match="negatives must be"):
        LexemeRegionLoss(negatives=0)
    case = region_case()
    loss = LexemeRegionLoss()
    with pytest.raises(ValueError, match="links must join a region and a lexeme of one image"):
        loss(*case._replace(links=torch.tensor([[0, len(case.lexemes) - 1]])))
    with pytest.raises(ValueError, match=r"regions and lexemes must be \[P, D\] and \[Q, D\]"):
        loss(*case._replace(regions=case.regions[:, :3]))
    with pytest.raises(ValueError, match="lemma must have"):
        loss(*case._replace(lemma=case.lemma[1:]))
    with pytest.raises(ValueError, match=r"links must be \[M, 2\]"):
        loss(*case._replace(links=case.links[:, :1]))


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_global_region_is_the_mean_cosine_distance(power):
    g = torch.Generator().manual_seed(0)
    regions, targets = (normalize(torch.randn(6, 5, generator=g, dtype=torch.float64), dim=-1) for _ in range(2))
    valid = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    expected = sum((1 - (regions[p] * targets[p]).sum()) ** power for p in range(6) if valid[p]) / 4
    poisoned = regions.clone()
    poisoned[~valid] = torch.nan
    poisoned.requires_grad_()
    loss = GlobalRegionLoss(power)(poisoned, targets, valid)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected)
    assert poisoned.grad is not None
    assert not poisoned.grad[~valid].any()
    assert GlobalRegionLoss(power)(targets, targets) < 1e-12


@pytest.mark.usefixtures("unchecked_shapes")
def test_global_region_without_regions_is_zero():
    empty = torch.zeros(0, 4, requires_grad=True)
    loss = GlobalRegionLoss()(empty, empty)
    assert loss == 0
    loss.backward()
    with pytest.raises(ValueError, match="power must be positive and finite, got 0"):
        GlobalRegionLoss(0)
    with pytest.raises(ValueError, match=r"regions and targets must both be \[P, D\]"):
        GlobalRegionLoss()(torch.ones(2, 3), torch.ones(3, 3))
