"""``folder:DIR``: classification of any folder that holds a folder of images for each class.

The folders' names, with spaces for underscores, are the class names, and OpenAI's 80 prompts are the templates. The
files ``DIR/classnames.txt`` (a name a line, in the order of the folders) and ``DIR/templates.txt`` (a prompt a line
with ``{c}`` or ``{}``) replace them where they exist.
"""

from __future__ import annotations

from eval.data.image_folders import class_folders, labelled_images
from eval.data.records import read_text
from eval.interfaces import EvalContext, Model, PathBenchmark, Result
from eval.protocols.prompts import folder_templates
from eval.protocols.zero_shot_classification import LabelledImages, classify_images


class ImageFolder(PathBenchmark):
    """The benchmark of one folder, under ``root`` or anywhere."""

    kind = "folder"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """All images, all classes."""
        root = run.root / self.path
        folders = class_folders(root)
        names = [folder.name.replace("_", " ") for folder in folders]
        if (root / "classnames.txt").is_file():
            names = read_text(root / "classnames.txt").splitlines()
        if len(names) != len(folders):
            raise ValueError(
                f"{root / 'classnames.txt'} must hold {len(folders)} names, one a folder, got {len(names)}"
            )
        templates = folder_templates(root)
        images, labels = labelled_images((folder, label) for label, folder in enumerate(folders))
        data = LabelledImages(images, labels, names)
        protocol = f"class names of the folders, {len(templates)} prompts"
        return classify_images(self.head, model, run, data, templates, protocol)
