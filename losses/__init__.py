"""Losses: tensors in, scalar out. They know neither batches nor models."""

from losses.beta_cal import BetaCalLoss
from losses.clim import ClimLoss
from losses.clip import ClipLoss
from losses.global_region import GlobalRegionLoss
from losses.lexeme_region import LexemeRegionLoss
from losses.multi_positive import MultiPositiveClipLoss
from losses.sigmoid import SigmoidLoss
from losses.subcaption import PatchWeighting, SoftmaxWeights, SparseWeights, SubcaptionLoss, TopWeights
from losses.word_patch import WordPatchLoss

__all__ = [
    "BetaCalLoss",
    "ClimLoss",
    "ClipLoss",
    "GlobalRegionLoss",
    "LexemeRegionLoss",
    "MultiPositiveClipLoss",
    "PatchWeighting",
    "SigmoidLoss",
    "SoftmaxWeights",
    "SparseWeights",
    "SubcaptionLoss",
    "TopWeights",
    "WordPatchLoss",
]


def __dir__() -> list[str]:
    return list(__all__)
