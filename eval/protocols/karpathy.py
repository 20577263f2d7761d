"""Karpathy's splits of COCO and Flickr30k, in the two forms that circulate.

``dataset_NAME.json``: {"images": [{filename, filepath?, split, sentences: [{raw}]}]}; ALBEF's and LAVIS's list:
[{image: "val2014/NAME.jpg", caption: [...]}].
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from eval.data.annotations import LIST, NAME, PATH, Rule, checked
from eval.data.find_file import first_there, place
from eval.data.records import read_json
from eval.interfaces import EvalContext
from eval.protocols.image_text_retrieval import ImageTexts, gather_files

CAPTIONS = Rule("a list of texts", lambda v: isinstance(v, list) and bool(v) and all(map(NAME.holds, v)))


def read_karpathy(
    run: EvalContext,
    names: tuple[str, ...],
    files_of: Callable[[Path, str | None, str], list[Path]],
    split: str = "test",
) -> ImageTexts:
    """The pictures of ``split`` with all their captions, verbatim.

    Args:
        names: of the file, in the order they are looked for.
        files_of: where a picture may be, from the root, its folder as the file tells it (or None) and its file's name.
    """
    path = place(run.root, *names)
    document, checksum = read_json(path)
    listed: list[tuple[str | None, str, list[str]]] = []
    if isinstance(document, list):
        for row in checked(path, "records", document, {"image": PATH, "caption": CAPTIONS}):
            image = PurePosixPath(row["image"])
            listed.append((image.parent.name or None, row["image"], row["caption"]))
    else:
        rows = document.get("images") if isinstance(document, dict) else None
        if not isinstance(rows, list):
            raise ValueError(f"{path}: 'images' must be a list, got {type(rows).__name__}")
        for i, row in enumerate(checked(path, "images", rows, {"filename": PATH, "split": NAME, "sentences": LIST})):
            if row["split"] == split:
                sentences = checked(path, f"images[{i}].sentences", row["sentences"], {"raw": NAME})
                listed.append((row.get("filepath"), row["filename"], [s["raw"] for s in sentences]))
    if not listed:
        raise ValueError(f"{path} must hold pictures of the split {split!r}, got none")
    named = [(first_there(files_of(run.root, folder, name)), name, captions) for folder, name, captions in listed]
    return gather_files(named, path, {path.name: checksum}, run)
