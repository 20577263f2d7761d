"""Folders of images, one for each class, as ImageNet and most classification data sets are released."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from eval.data.sources import ImageFile, ImageSource

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def class_folders(root: Path) -> list[Path]:
    """The folders under ``root``, sorted by name. Raises FileNotFoundError where there are none."""
    folders = (
        sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith((".", "__"))) if root.is_dir() else []
    )
    if not folders:
        raise FileNotFoundError(f"{root} must hold a folder a class, got none")
    return folders


def labelled_images(folders: Iterable[tuple[Path, int]]) -> tuple[list[ImageSource], list[int]]:
    """The images of class folders, sorted by name within each, and their labels; ``folders`` are given with the class.

    Raises ValueError for a file that is not an image, and for a folder without images.
    """
    images: list[ImageSource] = []
    labels: list[int] = []
    for folder, label in folders:
        files = _folder_images(folder)
        images += files
        labels += [label] * len(files)
    return images, labels


def _folder_images(folder: Path) -> list[ImageFile]:
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    for file in files:
        if file.suffix.lower() not in EXTENSIONS:
            raise ValueError(f"{folder} must hold images ({', '.join(sorted(EXTENSIONS))}), got {file.name}")
    if not files:
        raise ValueError(f"{folder} must hold images, got none")
    return [ImageFile(file, f"{folder.name}/{file.relative_to(folder)}") for file in files]
