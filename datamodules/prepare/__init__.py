"""Readers that turn data sets into shards: one file a source. A new source adds its file and a line here."""

from datamodules.prepare.coco import prepare_coco
from datamodules.prepare.dci import prepare_dci
from datamodules.prepare.docci import prepare_docci
from datamodules.prepare.flickr8k import prepare_flickr8k
from datamodules.prepare.flickr30k_entities import prepare_flickr30k_entities
from datamodules.prepare.grit import prepare_grit
from datamodules.prepare.imageinwords import prepare_imageinwords
from datamodules.prepare.karpathy import prepare_karpathy
from datamodules.prepare.localized_narratives import prepare_localized_narratives
from datamodules.prepare.mdetr import prepare_grounded
from datamodules.prepare.sharegpt4v import prepare_sharegpt4v
from datamodules.prepare.table import prepare_table
from datamodules.prepare.tars import prepare_tars

SOURCES = (
    prepare_coco,
    prepare_dci,
    prepare_docci,
    prepare_flickr8k,
    prepare_flickr30k_entities,
    prepare_grit,
    prepare_grounded,
    prepare_imageinwords,
    prepare_karpathy,
    prepare_localized_narratives,
    prepare_sharegpt4v,
    prepare_table,
    prepare_tars,
)
