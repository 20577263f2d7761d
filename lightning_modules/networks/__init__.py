"""The networks: two towers, long contexts, pooling by text and by box, token calibration, and weights in and out."""

from lightning_modules.networks.calibration import Calibrated, TokenCalibration
from lightning_modules.networks.config import EncoderConfig, vit_b_16, vit_l_14
from lightning_modules.networks.contract import Encoder, ImageFeatures, TextFeatures, build_encoder, load_encoder
from lightning_modules.networks.encoder import DualEncoder
from lightning_modules.networks.long_context import PositionTable, stretch_positions
from lightning_modules.networks.open_clip_encoder import OpenClipConfig, OpenClipEncoder
from lightning_modules.networks.pooling import TextConditionedPooling
from lightning_modules.networks.regions import pool_regions
from lightning_modules.networks.siglip import SiglipEncoder
from lightning_modules.networks.siglip_settings import SiglipSettings

__all__ = [
    "Calibrated",
    "DualEncoder",
    "Encoder",
    "EncoderConfig",
    "ImageFeatures",
    "OpenClipConfig",
    "OpenClipEncoder",
    "PositionTable",
    "SiglipEncoder",
    "SiglipSettings",
    "TextConditionedPooling",
    "TextFeatures",
    "TokenCalibration",
    "build_encoder",
    "load_encoder",
    "pool_regions",
    "stretch_positions",
    "vit_b_16",
    "vit_l_14",
]
