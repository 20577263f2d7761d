"""Losses: tensors in, scalar out. They know neither batches nor models."""

from losses.beta_cal import BetaCalLoss
from losses.clim import ClimLoss
from losses.clip import ClipLoss
from losses.subcaption import Aggregation, SoftmaxWeights, SparseWeights, SubcaptionLoss, TopWeights
from losses.word_patch import WordPatchLoss

__all__ = [
    "Aggregation",
    "BetaCalLoss",
    "ClimLoss",
    "ClipLoss",
    "SoftmaxWeights",
    "SparseWeights",
    "SubcaptionLoss",
    "TopWeights",
    "WordPatchLoss",
]
