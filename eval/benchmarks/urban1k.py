"""Urban1k (Long-CLIP, ECCV 2024): 1000 city scenes of Visual Genome, each with a paragraph by GPT-4V.

Read from the unpacked ``Urban1k.zip``::

    Urban1k/image/N.jpg  Urban1k/caption/N.txt

The caption is the file's first line that is not blank. Published readers take the first line, which is blank in one of
the released files; ``--captions first_line`` does the same.
"""

from __future__ import annotations

import hashlib

from eval.data.caption_preprocessing import first_filled_line
from eval.data.find_file import find_path
from eval.data.records import read_text
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import LONG_KS, gather_files, retrieve

IMAGES = (".jpg", ".jpeg", ".png")


def urban1k(model: Model, run: EvalContext) -> Result:
    """1000 pairs."""
    folder = find_path(run.root, "Urban1k/caption", "Urban-1k/caption", "caption").parent
    files = sorted(f for f in (folder / "caption").iterdir() if f.suffix == ".txt" and not f.name.startswith("."))
    texts = {file.stem: read_text(file) for file in files}
    if not texts:
        raise FileNotFoundError(f"{folder / 'caption'} must hold captions N.txt, got none")
    images = {f.stem: f for f in (folder / "image").glob("*") if f.suffix in IMAGES and not f.name.startswith(".")}
    if extra := sorted(images.keys() - texts.keys()):
        raise ValueError(f"{folder / 'image'}: every image must have a caption, got none for {images[extra[0]].name}")
    records = [
        (file := images.get(stem, folder / "image" / f"{stem}.jpg"), file.name, [text]) for stem, text in texts.items()
    ]
    checksum = hashlib.sha256("\0".join(f"{stem}\0{text}" for stem, text in texts.items()).encode()).hexdigest()
    data = gather_files(records, folder / "caption", {"caption/*.txt": checksum}, run)
    protocol = "Long-CLIP: one caption an image, both ways; published number R@1"
    return retrieve("urban1k", model, run, data, protocol, LONG_KS, first_filled_line)
