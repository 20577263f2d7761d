"""Readers that turn data sets into shards: one file a source. A new source adds its file and a line here."""

from datamodules.prepare.coco import prepare_coco
from datamodules.prepare.flickr30k_entities import prepare_flickr30k_entities
from datamodules.prepare.grit import prepare_grit
from datamodules.prepare.grounded import prepare_grounded

SOURCES = (prepare_coco, prepare_flickr30k_entities, prepare_grit, prepare_grounded)

__all__ = ["SOURCES", "prepare_coco", "prepare_flickr30k_entities", "prepare_grit", "prepare_grounded"]
