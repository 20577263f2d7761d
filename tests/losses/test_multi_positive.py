from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from losses import ClipLoss, MultiPositiveClipLoss
from tests.losses.oracle import random_case


def by_hand(image, text, valid, scale, text_id=None, block=None):
    """Image by image and text by text, from the equation."""
    slots = [(b, k) for b, k in valid.nonzero().tolist()]

    def logit(b, slot):
        a, k = slot
        apart = block is not None and b // block != a // block
        shared = text_id is not None and a != b and text_id[a, k] in text_id[b][valid[b]]
        return torch.tensor(-math.inf) if apart or shared else scale * (image[b] * text[a, k]).sum()

    z = {b: torch.stack([logit(b, slot) for slot in slots]) for b in range(len(image)) if valid[b].any()}
    from_image = [
        row.logsumexp(0) - torch.stack([row[j] for j, (a, _) in enumerate(slots) if a == b]).mean()
        for b, row in z.items()
    ]
    from_text = [torch.stack([row[j] for row in z.values()]).logsumexp(0) - z[a][j] for j, (a, _) in enumerate(slots)]
    return (torch.stack(from_image).mean() + torch.stack(from_text).mean()) / 2


@pytest.mark.parametrize(("ids", "block"), [(False, None), (True, None), (False, 2), (True, 2)])
def test_is_its_equation(ids, block):
    case = random_case(images=7, ids=ids, seed=3)
    image = F.normalize(torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1)
    image = image + torch.where(case.valid.any(1), 0.0, math.nan)[:, None]
    leaves = [x.clone().requires_grad_() for x in (image, case.text, case.scale)]
    ours = MultiPositiveClipLoss("all" if block is None else block)(
        leaves[0], leaves[1], case.valid, leaves[2], case.text_id
    )
    expected = by_hand(leaves[0], leaves[1], case.valid, leaves[2], case.text_id, block)
    torch.testing.assert_close(ours, expected)
    grads = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True)
    for n, (a, b) in enumerate(grads):
        valid_rows = (case.valid.any(1), case.valid, ...)[n]
        torch.testing.assert_close(a[valid_rows], b[valid_rows])
        assert a.isfinite().all()


def test_one_text_each_is_clip():
    g = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(6, 5, generator=g), dim=-1) for _ in range(2))
    valid, text_id = torch.tensor([1, 1, 0, 1, 1, 1]).bool(), torch.tensor([3, 4, 5, 4, 6, 7])
    torch.testing.assert_close(
        MultiPositiveClipLoss()(image, text[:, None], valid[:, None], 5.0, text_id[:, None]),
        ClipLoss()(image, text, 5.0, valid, text_id),
    )


def test_no_text_at_all():
    image = torch.ones(3, 2, requires_grad=True)
    loss = MultiPositiveClipLoss()(image, torch.full((3, 4, 2), math.nan), torch.zeros(3, 4).bool(), 1.0)
    loss.backward()
    assert loss == 0
    assert (image.grad == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(4, 1, 2), torch.ones(4, 1).bool(), 1.0), r"got \[3, 2\] and \[4, 1, 2\]"),
        ((torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3, 1).bool(), 1.0), r"image must be \[B, D\]"),
        ((torch.zeros(3, 2), torch.zeros(3, 1, 2), torch.ones(3).bool(), 1.0), r"valid must be \[B, K\] = \[3, 1\]"),
        ((torch.zeros(3, 2), torch.zeros(3, 1, 2), torch.ones(3, 1), 1.0), "valid must be bool"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_inputs(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiPositiveClipLoss()(*arguments)
