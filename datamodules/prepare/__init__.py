"""Readers that turn data sets into shards: one file a source. A new source adds its file and a line here."""

from datamodules.prepare.coco import prepare_coco

SOURCES = (prepare_coco,)

__all__ = ["SOURCES", "prepare_coco"]
