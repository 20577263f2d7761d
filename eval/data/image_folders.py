"""Folders of images, one a class: how ImageNet and most sets for classification are released."""

from __future__ import annotations

from pathlib import Path

from eval.data.sources import ImageFile, Source

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def class_folders(root: Path) -> list[Path]:
    """The folders under ``root`` in the order of their names. Raises FileNotFoundError where there are none."""
    folders = (
        sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith((".", "__"))) if root.is_dir() else []
    )
    if not folders:
        raise FileNotFoundError(f"{root} must hold a folder a class, got none")
    return folders


def folder_images(folder: Path) -> list[Source]:
    """The images in a class's folder, by name. Raises ValueError for a file that is no image, and where none is."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    for file in files:
        if file.suffix.lower() not in EXTENSIONS:
            raise ValueError(f"{folder} must hold images ({', '.join(sorted(EXTENSIONS))}), got {file.name}")
    if not files:
        raise ValueError(f"{folder} must hold images, got none")
    return [ImageFile(file, f"{folder.name}/{file.relative_to(folder)}") for file in files]
