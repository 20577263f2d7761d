"""DOCCI (Onoe et al., ECCV 2024): photographs, each with a paragraph written by hand.

Read from the release::

    docci/docci_descriptions.jsonlines  docci/images/{test,qual_test,...}_NNNNN.jpg

``docci`` is the test split, 5000 pairs. GOAL's repository, and MulCLIP after it, evaluate 5100: the test split and the
100 of qual_test.
"""

from __future__ import annotations

from datamodules.formats.docci import read_docci
from eval.data.find_file import find_path
from eval.data.records import file_sha256
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import LONG_KS, gather_files, retrieve

FILE = "docci_descriptions.jsonlines"


def docci(model: Model, run: EvalContext) -> Result:
    """The test split, 5000 pairs."""
    return _splits("docci", ("test",), model, run)


def docci_goal(model: Model, run: EvalContext) -> Result:
    """GOAL's 5100 pairs: the splits test and qual_test."""
    return _splits("docci_goal", ("test", "qual_test"), model, run)


def _splits(name: str, splits: tuple[str, ...], model: Model, run: EvalContext) -> Result:
    path = find_path(run.root, f"docci/{FILE}", FILE)
    images = list(read_docci(path))
    records = [
        (path.parent / "images" / image.file, image.file, [image.description])
        for split in splits
        for image in images
        if image.split == split
    ]
    if not records:
        raise ValueError(f"{path} must hold the splits {', '.join(splits)}, got no record of them")
    data = gather_files(records, path, {path.name: file_sha256(path)}, run)
    protocol = f"splits {' + '.join(splits)}, one caption an image, both ways"
    return retrieve(name, model, run, data, protocol, LONG_KS)
