"""The page "Your own images", every command and its Python, in order: on two hundred real photographs where they are at
hand, else on as many made-up images.
"""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lightning_modules import ClipFinetune
from lightning_modules.cli.main import main
from tests.eval import releases
from tests.helpers.tiny import make_sample, picture
from tests.helpers.tiny_run import fit
from tests.test_readme import ROOT, commands

FLICKR8K = ROOT.parent / "shared" / "data" / "flickr8k"
PHOTOGRAPHS = 200
HEADING = "## Your own images, from a folder to a search\n"
SMALL = "--trainer.max_epochs 1 --trainer.accelerator cpu --data.num_workers 0 --model.init_args.encoder.image_size 16"
MEASURE = "--device cpu --batch_size 64 --bootstrap 10"
ADDED = {"fit": SMALL, "evaluate": MEASURE}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("nltk_data")]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with photographs, their table, a small start and another data set."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "photos").mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "caption"))
        captions = first_captions if FLICKR8K.is_dir() else made_up_captions
        table.writerows(captions(folder / "photos"))
    fit(folder / "start", epochs=1, method=ClipFinetune)
    start = folder / "openai" / "clip-vit-base-patch16"
    assert main(["export", str(folder / "start" / "checkpoints" / "last.ckpt"), str(start)]) == 0
    releases.write_flickr(folder / "DATA")
    return folder


def first_captions(photos: Path) -> Iterator[tuple[str, str]]:
    """The captions of the first photographs, which are copied to ``photos``."""
    for line in (FLICKR8K / "Flickr8k.token.txt").read_text("utf-8").splitlines():
        name, _, caption = line.partition("\t")
        image = name.partition("#")[0]
        source = FLICKR8K / "Flicker8k_Dataset" / image
        if not source.is_file():
            continue
        if not (photos / image).exists() and len(list(photos.iterdir())) == PHOTOGRAPHS:
            return
        shutil.copy(source, photos / image)
        yield image, caption


def made_up_captions(photos: Path) -> Iterator[tuple[str, str]]:
    """Two captions for each of some images, which are written to ``photos``."""
    for number in range(PHOTOGRAPHS):
        (photos / f"{number}.jpg").write_bytes(picture(number))
        for caption in make_sample(number % 64).sentences:
            yield f"{number}.jpg", f"{caption[:-1]}, number {number}."


def test_the_page(place, monkeypatch, capsys):
    page = (ROOT / "datamodules" / "README.md").read_text("utf-8")
    section = page.partition(HEADING)[2].partition("\n## ")[0]
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", ["lightning"])
    ran = []
    for command in commands(section):
        arguments = shlex.split(f"{command} {ADDED.get(command.split()[1], '')}")[1:]
        assert main(arguments) == 0, command
        ran.append(arguments[0])
    assert ran == ["prepare", "prepare", "inspect", "fit", "evaluate", "evaluate", "export"]
    train, val = (
        yaml.safe_load((place / "shards" / "own" / part / "manifest.json").read_text()) for part in ("train", "val")
    )
    counts = [sum(shard["samples"] for shard in manifest["shards"].values()) for manifest in (train, val)]
    assert sum(counts) == PHOTOGRAPHS
    assert 8 <= counts[1] <= 35  # a tenth
    assert (place / "own-forgetting" / "interpolation.md").is_file()
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        capsys.readouterr()
        exec(compile(block, "page", "exec"), {"__name__": "page"})
        found = yaml.safe_load(capsys.readouterr().out)
        assert len(set(found)) == 5
        assert all((place / "photos" / name).is_file() for name in found)
