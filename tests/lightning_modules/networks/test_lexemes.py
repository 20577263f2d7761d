import pytest
import torch
from torch.nn.functional import normalize

from lightning_modules.networks.lexemes import pool_lexemes


def test_pool_lexemes():
    tokens = torch.randn(9, 4, dtype=torch.float64)
    first, span = torch.tensor([0, 4]), torch.tensor([[1, 3], [2, 5]])
    mean = pool_lexemes(tokens, first, span)
    torch.testing.assert_close(mean[0], normalize(tokens[1:3].mean(0), dim=0))
    torch.testing.assert_close(mean[1], normalize(tokens[6:9].mean(0), dim=0))
    torch.testing.assert_close(pool_lexemes(tokens, first, span, "last"), normalize(tokens[[2, 8]], dim=1))
    assert pool_lexemes(tokens, first[:0], span[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match=r"span must hold at least one token, got \[3, 3\]"):
        pool_lexemes(tokens, first[:1], torch.tensor([[3, 3]]))
    with pytest.raises(ValueError, match="pooling must be mean or last, got 'max'"):
        pool_lexemes(tokens, first, span, "max")
