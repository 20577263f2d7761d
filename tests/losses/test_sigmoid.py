from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from losses import BetaCalLoss, SigmoidLoss
from tests.losses.oracle import random_case


def by_hand(image, text, valid, scale, bias, text_id=None, block=None):
    """Pair by pair, from the equation."""
    total, images = 0.0, [b for b in range(len(image)) if valid[b].any()]
    for b in images:
        for a, k in valid.nonzero().tolist():
            apart = block is not None and b // block != a // block
            shared = text_id is not None and a != b and text_id[a, k] in text_id[b][valid[b]]
            if not apart and not shared:
                sign = 1.0 if a == b else -1.0
                total = total - F.logsigmoid(sign * (scale * (image[b] * text[a, k]).sum() + bias))
    return total / len(images)


@pytest.mark.parametrize(("ids", "block"), [(False, None), (True, None), (False, 2), (True, 2)])
def test_is_its_equation(ids, block):
    case = random_case(images=7, ids=ids, seed=3)
    image = F.normalize(torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1)
    image = image + torch.where(case.valid.any(1), 0.0, math.nan)[:, None]
    bias = torch.tensor([-2.0], dtype=torch.float64)
    leaves = [x.clone().requires_grad_() for x in (image, case.text, case.scale, bias)]
    ours = SigmoidLoss("all" if block is None else block)(
        leaves[0], leaves[1], leaves[2], leaves[3], case.valid, case.text_id
    )
    expected = by_hand(leaves[0], leaves[1], case.valid, leaves[2], leaves[3], case.text_id, block).squeeze()
    torch.testing.assert_close(ours, expected)
    grads = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True)
    for n, (a, b) in enumerate(grads):
        valid_rows = (case.valid.any(1), case.valid, ..., ...)[n]
        torch.testing.assert_close(a[valid_rows], b[valid_rows])
        assert a.isfinite().all()


def test_one_text_each_is_siglip_as_published():
    """-mean over images of the sum over texts of log σ(y z); with one text an image it is β-CAL's BCE per row, too."""
    g = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(6, 5, generator=g), dim=-1) for _ in range(2))
    signs = 2 * torch.eye(6) - 1
    published = -F.logsigmoid(signs * (5.0 * image @ text.T - 3.0)).sum() / 6
    torch.testing.assert_close(SigmoidLoss()(image, text, 5.0, -3.0), published)
    torch.testing.assert_close(SigmoidLoss()(image, text[:, None], 5.0, -3.0), published)
    beta_cal = BetaCalLoss("bce", beta=0.0, normalize_by="row", bias=-3.0)
    torch.testing.assert_close(beta_cal(image[:, None], text[:, None], torch.ones(6, 1).bool(), 5.0), published)


def test_no_text_at_all():
    image = torch.ones(3, 2, requires_grad=True)
    loss = SigmoidLoss()(image, torch.full((3, 4, 2), math.nan), 1.0, 0.0, torch.zeros(3, 4).bool())
    loss.backward()
    assert loss == 0
    assert (image.grad == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(4, 1, 2), 1.0), r"got \[3, 2\] and \[4, 1, 2\]"),
        ((torch.zeros(3, 2), torch.zeros(3), 1.0), r"text \[B, D\] or \[B, K, D\]"),
        (
            (torch.zeros(3, 2), torch.zeros(3, 1, 2), 1.0, 0.0, torch.ones(3).bool()),
            r"valid must be \[B, K\] = \[3, 1\]",
        ),
        ((torch.zeros(3, 2), torch.zeros(3, 2), 1.0, 0.0, torch.ones(3)), "valid must be bool"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_inputs(arguments, message):
    with pytest.raises(ValueError, match=message):
        SigmoidLoss()(*arguments)
