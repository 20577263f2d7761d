"""The embedded data set: images of a few shapes and English about them, generated, so nothing is downloaded.

``sample`` makes one sample; ``ensure_shards`` writes a data set once as ordinary WebDataset tars. ``world`` defines a
scene and says why methods can be compared on scenes.
"""

from datamodules.scenes.generate import sample
from datamodules.scenes.shards import ScenesShards, ensure_shards

__all__ = ["ScenesShards", "ensure_shards", "sample"]
