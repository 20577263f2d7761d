"""``folder:DIR``: classification of any folder with a folder of images a class.

The folders' names, underscores as spaces, are the class names, put into OpenAI's 80 prompts; the files
``DIR/classnames.txt`` (a name a line, in the order of the folders) and ``DIR/templates.txt`` (a prompt a line with
``{c}`` or ``{}``) take their place where they are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.data.image_folders import class_folders, folder_images
from eval.data.records import read_text
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.prompts import imagenet_templates, read_templates
from eval.protocols.zero_shot_classification import Labelled, classify_images


@dataclass(frozen=True)
class ImageFolder:
    """The benchmark of one folder, under ``root`` or anywhere."""

    folder: str

    @property
    def __name__(self) -> str:
        return f"folder:{self.folder}"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """All images, all classes."""
        root = run.root / self.folder
        folders = class_folders(root)
        names = [own.name.replace("_", " ") for own in folders]
        if (root / "classnames.txt").is_file():
            names = read_text(root / "classnames.txt").splitlines()
        if len(names) != len(folders):
            raise ValueError(
                f"{root / 'classnames.txt'} must hold {len(folders)} names, one a folder, got {len(names)}"
            )
        templates = imagenet_templates()
        if (root / "templates.txt").is_file():
            templates = read_templates(root / "templates.txt")
        found = [(image, label) for label, own in enumerate(folders) for image in folder_images(own)]
        data = Labelled([image for image, _ in found], [label for _, label in found], names)
        name = f"folder:{Path(self.folder).name}"
        return classify_images(
            name, model, run, data, templates, f"class names of the folders, {len(templates)} prompts"
        )
