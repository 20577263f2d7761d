"""The settings that a config's header advertises, read from the header, and what the command line makes of them.

A line of three spaces, a name and overrides is a setting: ``#   name   --model.init_args.x 1``. Several overrides
belong together. After ``;`` stands another setting, whose ``.key`` is a neighbour of the last key; ``(or 2, 3)`` after
a value stands for more settings. Other words are for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lightning import seed_everything
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from datamodules import GranularityData
from lightning_modules import Method
from lightning_modules.cli.trainer import GrainCli

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"#   (?!lightning |torchrun )(\S.*?) +(--\S.*)")
PAIR = re.compile(r" *(--[\w.]+|\.[\w.]+) ('[^']*'|[^\s;]+)")
OR = re.compile(r"\(or ([^()]*)\)")
OF_RECIPES = {  # the config that a recipe is laid over
    "vitb16_sharegpt4v": "beta_ce", "vitl14_sharegpt4v": "beta_bce", "mulclip_vitb16_docci": "mulclip",
    "harmoclip_vitb16_coco": "harmoclip", "lora": "clip", "lit": "clip",
}  # fmt: skip
SIZES = {
    "image_size": 16, "patch_size": 4, "image_width": 16, "image_layers": 2, "image_heads": 2, "text_width": 16,
    "text_layers": 1, "text_heads": 2, "embed_dim": 16, "context_length": 77,
}  # fmt: skip


class Setting(NamedTuple):
    """A config, what its header calls a setting, and the command line's overrides for it."""

    config: str
    name: str
    overrides: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people: `beta_ce: negatives, scope 64`."""
        return f"{self.config}: {self.name} {' '.join(self.overrides)}".strip()


def in_header(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names and overrides of the settings in a config's first lines."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        found = LINE.fullmatch(line)
        if found is None:
            continue
        last = ""
        for alternative in found[2].split(";"):
            pairs: list[tuple[str, str]] = []
            at = 0
            while pair := PAIR.match(alternative, at):
                key, value, at = pair[1], pair[2].strip("'"), pair.end()
                last = key if key.startswith("--") else last.rpartition(".")[0] + key
                pairs.append((last, value))
            assert pairs, f"no override in {alternative!r}"
            others = OR.search(alternative)
            for value in [pairs[-1][1], *(others[1].split(", ") if others else ())]:
                yield found[1], tuple(f"{k}={v}" for k, v in [*pairs[:-1], (pairs[-1][0], value)])


def settings() -> list[Setting]:
    """Of every config as it stands, and of every override that a header advertises."""
    configs, recipes = (sorted((ROOT / folder).glob("*.yaml")) for folder in ("configs", "configs/recipes"))
    found, known = [], set()
    for file in [*configs, *(one for one in recipes if one.stem in OF_RECIPES)]:  # others say how to run, not what
        found.append(Setting(file.stem, "as it stands"))
        for name, overrides in in_header(file.read_text("utf-8")):
            if (file.stem[:3], overrides) not in known:  # both of ViT-B and of ViT-L
                found.append(Setting(file.stem, name, overrides))
            known.add((file.stem[:3], overrides))
    return found


def build(setting: Setting, shards: list[str], *more: str) -> tuple[Method, GranularityData]:
    """The model and the data that `lightning fit` makes, with towers and batches that are small."""
    overlay = [str(ROOT / f"configs/recipes/{setting.config}.yaml")] if setting.config in OF_RECIPES else []
    files = [str(ROOT / f"configs/{OF_RECIPES.get(setting.config, setting.config)}.yaml"), *overlay]
    arguments = [
        *(word for file in files for word in ("--config", file)),
        *(f"--model.init_args.encoder.{name}={size}" for name, size in SIZES.items()),
        "--model.init_args.pretrained=null", "--data.num_workers=0", "--data.global_batch_size=8",
        f"--data.shards={shards}", f"--data.val_shards={shards}", "--data.val_batch_size=10", "--trainer.logger=false",
        *setting.overrides, *more,
    ]  # fmt: skip
    seed_everything(0)
    made = _parser().instantiate_classes(_parser().parse_args(["fit", *arguments])).fit
    return made.model, made.data


class _NotRun(GrainCli):
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.parser = parser
        raise _Made


class _Made(Exception):
    pass


@cache
def _parser() -> LightningArgumentParser:
    """The command's own."""
    cli = _NotRun.__new__(_NotRun)
    with suppress(_Made):
        cli.__init__()
    return cli.parser
