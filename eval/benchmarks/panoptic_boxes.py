"""``coco_panoptic_boxes``: boxes of COCO val2017's panoptic segments, things and stuff together, as FineCLIP classifies
them. ``eval.protocols.panoptic_files`` says which segments count, and what files they are read from.

Where we differ: class vectors always come from the model under test; the published ones were stored with the pretrained
text tower, which is correct only while that tower stays frozen.
"""

from __future__ import annotations

from eval.data.image_preprocessing import squash_bilinear
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.box_classification import BoxedImage, BoxProtocol, BoxSet, LabelledBox, classify
from eval.protocols.panoptic_files import read_panoptic
from eval.protocols.prompts import VILD_TEMPLATES
from eval.protocols.regions import unit_patches

FINECLIP = BoxProtocol(
    templates=lambda: VILD_TEMPLATES,
    fit=squash_bilinear,
    prepare=unit_patches,
    description="FineCLIP: things and stuff, ViLD's prompts by the model's own text tower, RoIAlign 1×1 of patches of "
    "unit norm; published numbers are class_mean_top1 and class_mean_top5",
)


def coco_panoptic_boxes(model: Model, run: EvalContext) -> Result:
    """COCO val2017's panoptic segments, 133 classes."""
    data = read_panoptic(run)
    images = [BoxedImage(p.image, [LabelledBox(s.box, s.label) for s in p.segments]) for p in data.images]
    return classify("coco_panoptic_boxes", model, run, BoxSet(data.classes, images, data.files, data.counts), FINECLIP)
