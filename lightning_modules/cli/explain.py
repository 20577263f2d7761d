"""``lightning explain``: where a model looks in an image when it reads a text, as one web page.

For a β-CLIP checkpoint the maps are its pooling block's own attention; for every other model the cosine between the
text and each patch. The model sees the whole image, squashed to a square.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from markupsafe import Markup
from PIL import Image

from datamodules.atomic_write import write_text
from eval.data.image_preprocessing import squash
from eval.data.sources import ImageFile
from eval.drawing.canvas import scale_strip
from eval.drawing.heat import Heat, overlay, resized, with_margin
from eval.drawing.page import card, cards, image, page, png_of
from eval.protocols.embed import as_pixels, patches_of
from lightning_modules.cli.evaluate import load_model, wanted_device
from lightning_modules.cli.model_names import model_names
from lightning_modules.cli.output_paths import make_room
from lightning_modules.errors import fail
from lightning_modules.inference.attention_maps import ATTENTION, heat_maps
from lightning_modules.inference.evaluation_model import EvaluationModel

SIDE = 640  # pixels of the longer side on the page


def explain(model: EvaluationModel, original: Image.Image, texts: Sequence[str]) -> tuple[Heat, list[float]]:
    """A heat map for each text, and each text's cosine with the whole image.

    Raises:
        ValueError: where there is no text, or an empty one, or the model has no patch features.
    """
    if not texts or not all(text.strip() for text in texts):
        raise ValueError(f"--text must be one or more texts that are not empty, got {list(texts)}")
    features = model.encode_image(as_pixels(squash(original, model.image_size))[None])
    vectors = model.encode_text(texts)
    return heat_maps(model, vectors, patches_of(features)), (vectors @ features.image[0]).tolist()


def explain_page(model: EvaluationModel, note: str, original: Image.Image, texts: Sequence[str], name: str) -> str:
    """The page: the image, and the image under each text's map, each map on a scale of its own."""
    heat, cosines = explain(model, original, texts)
    shown = resized(original, SIDE)
    figures = [card(image(png_of(with_margin(shown)), "the image"), f"The image: {name}")]
    for text, heat_map, peak, cosine in zip(texts, heat.maps, heat.peaks(), cosines, strict=True):
        caption = Markup("<strong>{}</strong><br>{} · whole image and text: cosine {:.3f}{}").format(
            text, peak, cosine, _truncation(model, text)
        )
        figures.append(card(image(png_of(overlay(shown, heat_map)), f"where: {text}"), caption))
    body = Markup('<p class="note">{}</p>\n{}\n{}').format(note, _scale(heat), cards(figures))
    return page("Where does it look?", body)


def _scale(heat: Heat) -> Markup:
    attention = "The pooling block's attention, mean of its heads; each map's weights sum to one."
    similarity = "Cosines of the text with each patch; this model has no text-conditioned attention."
    explanation = attention if heat.measure == ATTENTION else similarity
    return Markup(
        '<div class="scale"><div><span>{}</span></div>{}<div><span>its lowest</span><span>its peak</span></div></div>\n'
        '<p class="note">{} Each map has a scale of its own; the ring marks its peak.</p>'
    ).format(heat.measure, image(png_of(scale_strip()), "scale"), explanation)


def _truncation(model: EvaluationModel, text: str) -> str:
    tokens = model.token_count(text)
    return "" if tokens <= model.context_length else f" · cut: {tokens} tokens, it reads {model.context_length}"


def run(args: Namespace) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    try:
        make_room(args.out, "--out")
        original = ImageFile(args.image, args.image.name).open()
        model, words = load_model(args.model, wanted_device(args.device))
        title = f"Model: {model_names([words['source']])[0]}"
        title += f", {words['method']} after {words['steps']} steps" if "steps" in words else ""
        write_text(args.out, explain_page(model, title, original, args.text, args.image.name))
    except (ValueError, OSError) as error:
        fail(str(error))
    sys.stdout.write(f"written: {args.out}\n")
    return 0
