"""Mapping of phrases to COCO's categories."""

from __future__ import annotations

import pytest

from datamodules.granularity.cutting import extract_phrases
from datamodules.prepare.coco_names import CategoryNames

pytestmark = pytest.mark.usefixtures("nltk_data")
COCO_NAMES = ("person", "bicycle", "car", "motorcycle", "airplane", "bus", "truck", "traffic light", "dog", "bear")
COCO_NAMES += ("handbag", "tie", "suitcase", "skis", "sports ball", "wine glass", "cup", "hot dog", "chair", "couch")
COCO_NAMES += (
    "potted plant",
    "dining table",
    "tv",
    "laptop",
    "cell phone",
    "scissors",
    "teddy bear",
    "knife",
    "orange",
)


@pytest.mark.parametrize(
    ("text", "labels", "named"),
    [
        ("Two women with a boy.", "person dog", "person person"),
        ("A group of people.", "person", "person"),
        ("A bike.", "bicycle,motorcycle", "bicycle"),
        ("A bike.", "motorcycle,person", "motorcycle"),
        ("A hot dog.", "dog,hot dog", "hot dog"),
        ("A hot dog.", "dog", ""),
        ("Three teddy bears and a bear.", "bear,teddy bear", "teddy bear bear"),
        ("Two wine glasses.", "wine glass,cup", "wine glass"),
        ("A man with glasses.", "wine glass,cup", ""),
        ("A pair of skis and scissors.", "skis,scissors", "skis scissors"),
        ("A sofa, a television and her mobile phone.", "couch,tv,cell phone", "couch tv cell phone"),
        ("The man's knives.", "person,knife", "knife"),
        ("A bathroom with no chair.", "chair", ""),
        ("A bus stop near a clock tower.", "bus", ""),
        ("To the left of it.", "person", ""),
        ("A dog.", "cat", ""),
    ],
)
def test_head_nouns_name_categories(text, labels, named):
    names = CategoryNames([*COCO_NAMES, "cat"])
    phrases = extract_phrases(text, [text])
    phrases_of = names.phrases_by_label(phrases, labels.split(",") if "," in labels else labels.split(" ", 1))
    by_phrase = sorted((index, label) for label, indices in phrases_of.items() for index in indices)
    assert " ".join(label for _, label in by_phrase) == named


def test_categories_of_other_sets_have_their_own_names():
    text = "Two street signs and a cat."
    phrases_of = CategoryNames(["street-sign", "mailbox"]).phrases_by_label(
        extract_phrases(text, [text]), ["street-sign"]
    )
    assert phrases_of == {"street-sign": [0]}
