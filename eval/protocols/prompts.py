"""Class vectors from class names: a name is put into many prompts, and their embeddings are averaged (CLIP, 2021).

A template is a format string: ``{}`` stands for the name, ``{article}`` for its "a" or "an". Two sets are in use:
OpenAI's 80 for ImageNet, and ViLD's 63 (Gu et al., ICLR 2022), which CLIPSelf and FineCLIP classify boxes with.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from eval.data.records import read_text
from eval.interfaces import ProgressBar, untracked

TEXTS = 1024  # encoded in one call

_VILD = (
    *("There is {article} {} in the scene.", "There is the {} in the scene."),
    *("a photo of {article} {} in the scene.", "a photo of the {} in the scene.", "a photo of one {} in the scene."),
    *("itap of {article} {}.", "itap of my {}.", "itap of the {}."),  # itap: I took a picture
    *("a photo of {article} {}.", "a photo of my {}.", "a photo of the {}.", "a photo of one {}."),
    *("a photo of many {}.", "a black and white photo of the {}.", "a black and white photo of {article} {}."),
    *(
        f"a {look} photo of {which} {{}}."
        for look in (
            *("good", "bad", "bright", "dark", "low resolution", "cropped", "close-up"),
            *("jpeg corrupted", "blurry", "pixelated"),
        )
        for which in ("{article}", "the")
    ),
    *(
        f"a photo of {which} {kind} {{}}."
        for kind in ("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see")
        for which in ("a", "the")
    ),
    *(f"{which} {material} {{}}." for material in ("plastic", "toy", "plushie", "cartoon") for which in ("a", "the")),
    *("an embroidered {}.", "the embroidered {}.", "a painting of the {}.", "a painting of a {}."),
)
VILD_TEMPLATES = tuple(f"This is {t}" if t.startswith(("a", "the")) else t for t in _VILD)


def vild_name(name: str) -> str:
    """A class name as ViLD puts it into prompts: ``_`` is a space, ``/`` is "or", lower case, no dot at the end."""
    return name.replace("_", " ").replace("/", " or ").lower().rstrip(".")


_CIFAR_LOOKS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
CIFAR_TEMPLATES = tuple(  # OpenAI's
    template
    for which in ("a", "the")
    for template in (
        *(f"a {look}photo of {which} {{}}." for look in _CIFAR_LOOKS),
        *(f"a photo of {which} {size} {{}}." for size in ("small", "big")),
    )
)


@lru_cache(maxsize=1)
def _metadata() -> Any:
    """open_clip's file of class names and prompts (one file of it: importing all of it is slow)."""
    package = importlib.util.find_spec("open_clip")
    for folder in (package.submodule_search_locations or []) if package else []:
        file = Path(folder) / "zero_shot_metadata.py"
        spec = importlib.util.spec_from_file_location("open_clip_zero_shot_metadata", file)
        if file.is_file() and spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ImportError("zero_shot_metadata.py of the package open_clip_torch was not found; pip install open_clip_torch")


@lru_cache(maxsize=1)
def imagenet_templates() -> tuple[str, ...]:
    """OpenAI's 80 templates for ImageNet, from the installed open_clip.

    Raises ImportError where open_clip is not installed.
    """
    return tuple(template("{}") for template in _metadata().OPENAI_IMAGENET_TEMPLATES)


@lru_cache(maxsize=1)
def imagenet_classes() -> tuple[str, ...]:
    """OpenAI's names of ImageNet's 1000 classes, from the installed open_clip; 998 differ. Raises ImportError."""
    return tuple(_metadata().IMAGENET_CLASSNAMES)


def read_templates(path: Path) -> tuple[str, ...]:
    """Templates of a file, one a line, with ``{c}`` or ``{}`` in place of the class name.

    Raises FileNotFoundError, and ValueError for a line without that placeholder or with another.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist; it must hold prompts, one a line")
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    templates = tuple(line.replace("{c}", "{}") for line in lines)
    for line, template in zip(lines, templates, strict=True):
        if template.count("{") != 1 or "{}" not in template or template.count("}") != 1:
            raise ValueError(f"{path}: a prompt must hold {{c}} once, the place of the name, got {line!r}")
    if not templates:
        raise ValueError(f"{path} must hold prompts, one a line, got none")
    return templates


def folder_templates(folder: Path) -> tuple[str, ...]:
    """The templates of ``folder/templates.txt`` where it exists, else OpenAI's 80."""
    file = folder / "templates.txt"
    return read_templates(file) if file.is_file() else imagenet_templates()


def prompts(name: str, templates: Sequence[str]) -> list[str]:
    """``name`` in every template."""
    article = "an" if name[:1] in tuple("aeiou") else "a"
    return [template.format(name, article=article) for template in templates]


def class_vectors(
    encode_text: Callable[[Sequence[str]], Float[Tensor, "N D"]],
    names: Sequence[str],
    templates: Sequence[str],
    track: ProgressBar = untracked,
) -> Float[Tensor, "C D"]:
    """One unit vector per class: the mean of its prompts' unit embeddings, normalised.

    ``encode_text`` may return embeddings of any norm. Raises ValueError without names or templates, for an empty name,
    and for a template without a placeholder for the name.
    """
    for argument, texts in (("names", names), ("templates", templates)):
        if not texts:
            raise ValueError(f"{argument} must not be empty")
    if not all(name.strip() for name in names):
        raise ValueError(f"a class's name must not be empty, got {list(names)}")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"a template must hold {{}}, the place of the name, got {template!r}")
    size = max(1, TEXTS // len(templates))
    groups = [names[i : i + size] for i in range(0, len(names), size)]
    vectors = []
    for group in track(groups, "class vectors"):
        texts = encode_text([text for name in group for text in prompts(name, templates)])
        rows = functional.normalize(texts.float(), dim=1).unflatten(0, (len(group), len(templates)))
        vectors.append(functional.normalize(rows.mean(1), dim=1))
    return torch.cat(vectors)
