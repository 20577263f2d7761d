"""Losses: tensors in, scalar out. They know neither batches nor models."""

from losses.beta_cal import BetaCalLoss
from losses.clip import ClipLoss

__all__ = ["BetaCalLoss", "ClipLoss"]
