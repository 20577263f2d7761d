import pytest

from datamodules.batching.region_sampling import RegionSampling
from lightning_modules import CropTarget, ImageTarget, PhraseTarget


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: CropTarget(weight=-1.0), r"region_losses\.weight must be 0 or more, got -1"),
        (
            lambda: CropTarget(teacher="best"),
            r"region_losses\.teacher must be self_detached, trained or frozen, got 'best'",
        ),
        (lambda: CropTarget(student_share=0.5), r"region_losses\.student_share is for a frozen teacher, got 0.5"),
        (lambda: CropTarget(power=0.0), r"region_losses\.power must be positive and finite, got 0"),
        (lambda: ImageTarget(power=-1.0), "power must be positive and finite, got -1"),
        (lambda: PhraseTarget(same_lemma="drop"), "same_lemma must be"),
        (lambda: RegionSampling(boxes=0), r"data\.regions\.boxes must be at least 1, got 0"),
        (lambda: RegionSampling(crops=-1), r"data\.regions\.crops must be 0 or more, got -1"),
        (lambda: RegionSampling(context=0.5), r"data\.regions\.context must be at least 1, the box itself, got 0.5"),
        (lambda: RegionSampling(min_area=-1.0), r"data\.regions\.min_area must be 0 or more, got -1"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
