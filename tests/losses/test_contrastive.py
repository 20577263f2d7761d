from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from losses import BetaCalLoss
from losses.core import pairs
from losses.core.contrastive import ContrastSide, log_partition, softplus_sum
from tests.losses.oracle import oracle_bce, oracle_ce, random_case

LOSSES = [BetaCalLoss("ce"), BetaCalLoss("bce")]
ORACLES = [lambda c: oracle_ce(c, 0.5), lambda c: oracle_bce(c, 0.5)]


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setitem(pairs.TILE, "cpu", 4)


@pytest.mark.usefixtures("small_tiles")
def test_regions_and_lexemes_with_many_links():
    """Several positives per row and column summed inside the log, and the same lemma elsewhere ignored.

    Three images with up to 3 regions and 4 lexemes. A region has the lemmas of all lexemes that it is linked to.
    """
    regions, lexemes = unit(3, 3, 5).requires_grad_(), unit(3, 4, 5, seed=1).requires_grad_()
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    links = torch.zeros(3, 3, 4, dtype=torch.bool)
    for link in [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 2, 3), (1, 0, 0), (1, 1, 2), (2, 0, 0), (2, 0, 1), (2, 0, 2)]:
        links[link] = True
    lemma = torch.tensor([[1, 2, 9, 1], [2, 9, 3, 9], [3, 4, 1, 9]])
    region_valid, lexeme_valid = links.any(2), links.any(1)
    linked = links.int().argsort(2, descending=True)  # the linked lexemes first; a region repeats its first one
    lemmas = lemma[:, None].expand(3, 3, 4)
    first = lemmas.gather(2, linked[..., :1])
    region_lemmas = torch.where(links, lemmas, first)
    elsewhere = (region_lemmas[..., None] == lemma[:, None, None]).any(2) & ~links

    sides = ContrastSide(regions, region_valid, region_lemmas), ContrastSide(lexemes, lexeme_valid, lemma[..., None])
    logits = log_partition(*sides, scale, keep=~elsewhere)
    positive = logits.within.masked_fill(~links, torch.finfo(logits.within.dtype).min)
    to_lexeme = (logits.row_partition - positive.logsumexp(2))[region_valid].mean()
    to_region = (logits.col_partition - positive.logsumexp(1))[lexeme_valid].mean()

    expected = []
    rows, cols = region_valid.nonzero().tolist(), lexeme_valid.nonzero().tolist()
    for fixed, moving, of_row in ((rows, cols, True), (cols, rows, False)):
        terms = []
        for a in fixed:
            numerator = denominator = torch.zeros((), dtype=torch.float64)
            for b in moving:
                (i, p), (j, q) = (a, b) if of_row else (b, a)
                linked_here = i == j and bool(links[i, p, q])
                own_lemmas = [int(x) for k, x in enumerate(lemma[i]) if links[i, p, k]]
                e = torch.exp(scale * (regions[i, p] @ lexemes[j, q]))
                numerator = numerator + e * linked_here
                denominator = denominator + e * (linked_here or int(lemma[j, q]) not in own_lemmas)
            terms.append(-torch.log(numerator / denominator))
        expected.append(torch.stack(terms).mean())
    leaves = (regions, lexemes, scale)
    ours, theirs = (torch.autograd.grad(torch.stack(x).sum(), leaves) for x in ([to_lexeme, to_region], expected))
    torch.testing.assert_close([to_lexeme, to_region], expected)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("negatives", ["all", 9])  # 9 blocks are the slots of 3 images
def test_one_problem_per_sentence_slot(negatives):
    """Slot m of an image is contrasted with slot m of other images only."""
    image, text = unit(6, 3, 5), unit(6, 3, 5, seed=1)
    valid = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0]], dtype=torch.bool)
    slot = torch.arange(3).repeat(6)
    rows, cols = (ContrastSide(x.flatten(0, 1)[:, None], valid.flatten()[:, None]) for x in (image, text))
    logits = log_partition(rows, cols, 6.0, part=slot, negatives=negatives)
    for m in range(3):
        for group in ([0, 1, 2, 3, 4, 5],) if negatives == "all" else ([0, 1, 2], [3, 4, 5]):
            b = [i for i in group if valid[i, m]]
            z = 6.0 * image[b, m] @ text[b, m].T
            rows, cols = (x.view(6, 3)[b, m] for x in (logits.row_partition, logits.col_partition))
            torch.testing.assert_close(rows, z.logsumexp(1))
            torch.testing.assert_close(cols, z.logsumexp(0))
    assert not logits.row_partition.view(6, 3)[~valid].any()


@pytest.mark.usefixtures("small_tiles")
def test_sides_of_different_length():
    """Two vectors on one side, five on the other, one of an image's sides empty."""
    rows, cols = unit(4, 2, 3), unit(4, 5, 3, seed=1)
    row_valid, col_valid = torch.ones(4, 2, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool)
    row_valid[1], col_valid[2], col_valid[3, 1:] = False, False, False
    z = torch.einsum("bkd,cqd->bkcq", rows, cols) * 5
    z = z.masked_fill(~(row_valid[:, :, None, None] & col_valid), -math.inf)
    logits = log_partition(ContrastSide(rows, row_valid), ContrastSide(cols, col_valid), 5.0)
    torch.testing.assert_close(logits.row_partition[row_valid], z.flatten(2).logsumexp(2)[row_valid])
    torch.testing.assert_close(logits.col_partition[col_valid], z.flatten(0, 1).logsumexp(0)[col_valid])
    different = ~torch.eye(4, dtype=torch.bool)[:, None, :, None]
    sums = softplus_sum(ContrastSide(rows, row_valid), ContrastSide(cols, col_valid), 5.0, bias=-1.0)
    torch.testing.assert_close(sums.total, torch.where(different, torch.nn.functional.softplus(z - 1), 0).sum())
    assert sums.weight == (row_valid[:, :, None, None] & col_valid & different).sum()
    within = torch.einsum("bkd,bqd->bkq", rows, cols) * 5 - 1
    torch.testing.assert_close(sums.within, within.masked_fill(~(row_valid[:, :, None] & col_valid[:, None]), 0))


@pytest.mark.parametrize(("loss", "oracle"), list(zip(LOSSES, ORACLES, strict=True)))
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_float32_is_accurate(loss, oracle, scale):
    """Also where a pair's probability is far below the smallest float32."""
    case = random_case(scale=scale, dtype=torch.float32)
    ours, theirs = case.leaves(), case._replace(pooled=case.pooled.double(), text=case.text.double()).leaves()
    value, expected = loss(*ours), oracle(theirs)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    for a, b in zip(ours.grads(), theirs.grads(), strict=True):
        assert (a.double() - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_and_half_inputs_keep_full_precision(loss):
    case = random_case(dtype=torch.float32)
    plain, cast, half = case.leaves(), case.leaves(), case._replace(pooled=case.pooled.bfloat16()).leaves()
    loss(*plain).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*cast)
    value.backward()
    assert value.dtype == torch.float32
    for a, b in zip(cast.grads(), plain.grads(), strict=True):
        assert torch.equal(a, b)
    value = loss(*half)
    value.backward()
    assert torch.equal(value, loss(half.pooled.float(), *half[1:]))
    assert half.grads()[0].dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_inside_a_compiled_step(loss):
    case = random_case(dtype=torch.float32)
    plain, compiled = case.leaves(), case.leaves()
    loss(*plain).backward()
    step = torch.compile(lambda pooled, *rest: loss(pooled * 1, *rest), backend="eager")
    step(*compiled).backward()
    for a, b in zip(compiled.grads(), plain.grads(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("loss", LOSSES)
def test_validation_needs_no_gradient(loss):
    case = random_case()
    with torch.no_grad():
        value = loss(*case.leaves())
    torch.testing.assert_close(value, loss(*case))
    assert not value.requires_grad


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
        return out


@pytest.mark.parametrize("loss", LOSSES)
def test_memory_grows_with_the_batch_not_its_square(monkeypatch, loss):
    monkeypatch.setitem(pairs.TILE, "cpu", 128)
    saved, largest = [], []
    for images in (64, 128):
        case = random_case(images=images, texts=8, width=16, dtype=torch.float32).leaves()
        tensors = []
        with (
            LargestTensor() as mode,
            torch.autograd.graph.saved_tensors_hooks(
                lambda x, sizes=tensors: sizes.append(x.numel()) or x, lambda x: x
            ),
        ):
            loss(*case).backward()
        saved.append(sum(tensors))
        largest.append(mode.numel)
    assert saved[1] <= 2.1 * saved[0]
    assert saved[1] <= 20 * 128 * 8 * 16
    assert max(largest) <= 128 * 128  # a tile, and B K D; a dense logit matrix would have (128 * 8)^2 elements
