"""Shapes are checked while tests run: without this, the annotations would be comments."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from datamodules.bounds import at_least
from losses import ClipLoss


def test_axes_of_one_name_have_one_length():
    images, texts = torch.ones(3, 4), torch.ones(3, 5)
    with pytest.raises(TypeCheckError, match="whilst typechecking parameter 'text'"):
        ClipLoss()(images, texts, torch.tensor(1.0))
    assert ClipLoss()(images, images, torch.tensor(1.0)).isfinite()


def test_functions_without_a_tensor_are_left_as_they_are():
    assert not hasattr(at_least, "__wrapped__")
    assert hasattr(ClipLoss.forward, "__wrapped__")
