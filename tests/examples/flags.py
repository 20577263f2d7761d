"""A benchmark of one's own: which of the names belongs to each image of ``ROOT/flags/NAME.png``?"""

from __future__ import annotations

from eval.data.find_file import find_path
from eval.data.image_preprocessing import squash
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.embed import embed_images


def flags(model: Model, run: EvalContext) -> Result:
    """The share of images that are nearest to their own name."""
    files = sorted(find_path(run.root, "flags").glob("*.png"))
    pictures = [ImageFile(file, file.name) for file in files]
    images = embed_images(model, run, pictures, run.fit or squash, "flags")
    names = model.encode_text([f"the flag of {file.stem}" for file in files]).to(images)
    right = (images @ names.T).argmax(1).eq(images.new_tensor(range(len(files))))
    return Result(
        {"flags/accuracy": right.float().mean().item()}, {"protocol": "nearest name"}, {"pictures": len(files)}
    )
