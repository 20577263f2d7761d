"""``load_model``: any model for use from Python: embed image files and texts, draw where a text looks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from datamodules.image_decoding import as_rgb
from eval.data.image_preprocessing import centre_crop, squash
from eval.data.sources import ImageFile, ImageSource, image_errors
from eval.drawing.canvas import png
from eval.drawing.heat import heat_figure
from eval.interfaces import EvalContext
from eval.protocols.embed import as_pixels, embed_images, embed_texts, patches_of
from lightning_modules.cli import evaluate
from lightning_modules.inference.attention_maps import heat_maps
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import Encoder, TextConditionedPooling

ImageLike = str | Path | Image.Image


@dataclass(frozen=True)
class MemoryImage:
    """An image in memory.

    PIL decodes a file that it opened when the pixels are asked for, and only one thread may do so at a time.
    """

    image: Image.Image
    name: str
    lock: Lock = field(default_factory=Lock, compare=False, repr=False)

    def stamp(self) -> str:
        """Its pixels; only a cache asks."""
        return f"{self.name} {self.image.size} {hash(self.image.tobytes())}"

    def open(self) -> Image.Image:
        """The upright image in RGB. Raises ValueError where it cannot be read."""
        with self.lock, image_errors(self.name):
            return as_rgb(self.image)


class LoadedModel(EvaluationModel):
    """A model for use from Python; made by ``load_model``. Batches, devices and decoding are seen to."""

    def __init__(
        self, encoder: Encoder, device: torch.device, pooling: TextConditionedPooling | None, source: str
    ) -> None:
        super().__init__(encoder, device, pooling)
        self.source = source

    def embed_images(self, images: Sequence[ImageLike], batch_size: int = 32) -> Float[Tensor, "N D"]:
        """Unit vectors of image files, or of images in memory, on the CPU; images are cropped at the centre.

        Raises:
            ValueError: a file is missing or no image, or there is none.
        """
        _check_list("images", images)
        unique: dict[int, ImageSource] = {}  # an image that is given twice has one lock
        for number, image in enumerate(images):
            if id(image) not in unique:
                unique[id(image)] = _source(image, f"images[{number}]")
        sources = [unique[id(image)] for image in images]
        return embed_images(self, EvalContext(Path(), batch_size), sources, centre_crop, "embed")

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> Float[Tensor, "N D"]:
        """Unit vectors of texts, on the CPU. Raises ValueError where there is none, or one is empty."""
        _check_list("texts", texts)
        if wrong := [text for text in texts if not isinstance(text, str) or not text.strip()]:
            raise ValueError(f"texts must be strings that are not empty, got {wrong[0]!r:.60}")
        return embed_texts(self, EvalContext(Path(), batch_size), texts, "embed")

    def draw(self, image: ImageLike, texts: Sequence[str]) -> Image.Image:
        """Maps of where each text looks in the image: β-CLIP's attention, else the cosines of text and patches.

        Raises:
            ValueError: the image cannot be read, a text is empty, or the model has no patch features.
        """
        vectors = self.embed_texts(texts)
        original = _source(image, "image").open()
        dense = patches_of(self.encode_image(as_pixels(squash(original, self.image_size))[None]))
        heat = heat_maps(self, vectors.to(dense), dense)
        title = f"Where texts look: {Path(self.source).name}"
        return Image.open(io.BytesIO(png(heat_figure(original, texts, heat, title)))).convert("RGB")


def load_model(source: str | Path, device: str | None = None) -> LoadedModel:
    """A model: a run's ``.ckpt`` file, a CLIP's folder or weights file, a hub id, ``open_clip:NAME/TAG``, or one that
    comes with the package (``scenes-base``).

    Args:
        source: the model.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None: a GPU where there is one.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: its weights are damaged or of another architecture, or there is no such device.
    """
    chosen = evaluate.wanted_device(device)
    model, _ = evaluate.load_model(str(source), chosen)
    return LoadedModel(model.encoder, chosen, model.pooling, str(source))


def _check_list(name: str, values: object) -> None:
    if isinstance(values, (str, Path, Image.Image)) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"{name} must be a list of at least one, got {values!r:.60}")


def _source(image: ImageLike, name: str) -> ImageSource:
    if isinstance(image, Image.Image):
        return MemoryImage(image, name)
    file = Path(image)
    if not file.is_file():
        raise ValueError(f"{name} must be an image file or a PIL image, got {file}: no such file")
    return ImageFile(file, str(file))
