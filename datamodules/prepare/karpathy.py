"""COCO and Flickr30k by Karpathy's splits as shards, so that what retrieval is measured on stays out of training.

An image's captions are joined into one text whose sentences they are, as for COCO's own files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datamodules.formats.coco import CocoImage
from datamodules.formats.karpathy import read_karpathy
from datamodules.formats.layout import LayoutError, described
from datamodules.prepare.coco import AnnotatedImage, CocoReader
from datamodules.prepare.coco_names import CategoryNames
from datamodules.prepare.images import require_images
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.shard_jobs import Manifest, in_units, write_units


def prepare_karpathy(
    images: Path, annotations: Path, job: PrepareJob, splits: tuple[str, ...] = ("train",), skip_missing: bool = False
) -> Manifest | None:
    """Write shards from Karpathy's split of COCO or Flickr30k (dataset_coco.json, dataset_flickr30k.json).

    Args:
        images: the folder of the images, where the file's `filepath` begins (with train2014/ and val2014/).
        annotations: the JSON file.
        job: where to, and how.
        splits: which images; for COCO '[train,restval]' are all that are not measured on.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the file or, without ``skip_missing``, an image is missing.
        LayoutError: it is not laid out as Karpathy's.
        ValueError: no image was left to write.
    """
    job.text_extractor.require()
    settings = {"annotations": described(annotations), "splits": splits}
    annotated = list(_annotated_images(annotations, splits))
    if not skip_missing:
        require_images((images / a.image.file_name for a in annotated), annotations)
    reader = CocoReader(images, CategoryNames([]), 0, job, "karpathy")
    return write_units(
        in_units(annotated, job.samples_per_shard), reader.samples, job, source="karpathy", settings=settings
    )


def _annotated_images(path: Path, splits: tuple[str, ...]) -> Iterator[AnnotatedImage]:
    for image in read_karpathy(path)[0]:
        if image.split is None:
            raise LayoutError(f"{path} must be Karpathy's file, an object of 'images', got a list of one split")
        if image.split in splits:
            name = PurePosixPath(image.folder or "", image.file)
            yield AnnotatedImage(CocoImage(name.stem, str(name), None), image.captions, (), ())
