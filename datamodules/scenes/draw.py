"""Images of scenes: stencils pasted onto a background, as PNG, with the box of every thing.

Each thing stays inside its grid cell, so nothing is hidden and a relation between cells is true of the boxes. Position
within the cell, exact size, rotation and shade vary from image to image and are never named in the text.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from random import Random

from PIL import Image, ImageDraw

from datamodules.sample import Box
from datamodules.scenes.shapes import TURNS, stencil
from datamodules.scenes.world import GRID, Scene

Colour = tuple[int, int, int]

PALETTE: dict[str, Colour] = {
    "red": (214, 36, 40),
    "orange": (246, 132, 30),
    "yellow": (250, 218, 50),
    "green": (46, 158, 66),
    "turquoise": (48, 202, 196),
    "blue": (40, 86, 212),
    "purple": (124, 52, 166),
    "pink": (246, 134, 190),
    "brown": (122, 72, 34),
    "black": (28, 28, 30),
    "white": (250, 250, 248),
}
TONES: dict[str, Colour] = {
    "light grey": (204, 205, 208),
    "cream": (238, 226, 196),
    "light blue": (178, 208, 236),
    "light green": (190, 224, 184),
    "lavender": (212, 198, 234),
    "dark grey": (88, 90, 96),
}
PIXELS = {"small": (11, 12), "medium": (15, 16), "large": (20, 21)}  # longer side, in an image of 64 × 64
BRIGHT = 135  # far from the brightness of every palette colour, with any random shade
SHADE = 8  # largest random change of a channel of a palette colour
MIN_SIDE = 32  # pixels
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_LEVEL = 3


def render(scene: Scene, rng: Random, size: int = 64) -> tuple[bytes, list[Box]]:
    """The image, ``size`` × ``size``, as PNG, and the box of every thing as fractions of its sides."""
    if size < MIN_SIDE:
        raise ValueError(f"size must be at least {MIN_SIDE} pixels for shapes to be told apart, got {size}")
    image = Image.new("RGB", (size, size), TONES[scene.tone])
    strokes = _background(scene.pattern, size, rng.randrange(4))
    if strokes is not None:
        image.paste(_mixed(TONES[scene.tone], (0, 0, 0), 0.2), None, strokes)
    on_dark = _brightness(TONES[scene.tone]) < 128
    boxes: list[Box] = []
    for thing, cell in zip(scene.things, scene.cells, strict=True):
        side = round(rng.choice(PIXELS[thing.size]) * size / 64)
        masks = stencil(thing.shape, thing.texture, side, rng.randrange(len(TURNS)))
        colour = _random_shade(PALETTE[thing.colour], rng)
        left, top = _corner(cell, masks.whole.size, size, rng)
        line = _mixed(colour, (255, 255, 255), 0.75) if on_dark else _mixed(colour, (0, 0, 0), 0.65)
        image.paste(line, (left, top), masks.whole)
        image.paste(colour, (left, top), masks.inside)
        image.paste(second_tone(colour), (left, top), masks.second)
        right, bottom = left + masks.whole.width, top + masks.whole.height
        boxes.append((left / size, top / size, right / size, bottom / size))
    return png_bytes(image), boxes


def png_bytes(image: Image.Image) -> bytes:
    """An RGB image as a PNG file without row filters, which would make images of flat colours larger and slower."""
    stride, pixels = 3 * image.width, image.tobytes()
    rows = b"".join([b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride)])
    # 8 bits a channel, colour type RGB, and the only compression, filtering and order without interlace that there are
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, PNG_LEVEL)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def second_tone(colour: Colour) -> Colour:
    """The second tone of a texture: a dark shade of a bright colour, a light tint of a dark one."""
    return _mixed(colour, (0, 0, 0), 0.5) if _brightness(colour) >= BRIGHT else _mixed(colour, (255, 255, 255), 0.62)


def _corner(cell: int, sides: tuple[int, int], size: int, rng: Random) -> tuple[int, int]:
    """The top left pixel of a thing somewhere inside its cell."""
    row, column = divmod(cell, GRID)
    first_x, first_y = column * size // GRID, row * size // GRID
    last_x, last_y = (column + 1) * size // GRID - sides[0], (row + 1) * size // GRID - sides[1]
    return rng.randint(first_x, last_x), rng.randint(first_y, last_y)


def _random_shade(colour: Colour, rng: Random) -> Colour:
    red, green, blue = (min(255, max(0, v + rng.randint(-SHADE, SHADE))) for v in colour)
    return red, green, blue


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _brightness(colour: Colour) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


@cache
def _background(pattern: str, size: int, variant: int) -> Image.Image | None:
    """Mask of the background's darker pattern; ``None`` for a plain one."""
    if pattern == "plain":
        return None
    mask = Image.new("L", (size, size))
    pen, step = ImageDraw.Draw(mask), max(5, 7 * size // 64)
    if pattern == "speckled":
        dots = Random(variant)
        points = [(dots.randrange(size), dots.randrange(size)) for _ in range(size * size // 14)]
        pen.point(points, fill=255)
        return mask
    for position in range(1 + variant, size, step):
        pen.line(((0, position), (size, position)), fill=255)
        if pattern == "squared":
            pen.line(((position, 0), (position, size)), fill=255)
    return mask
