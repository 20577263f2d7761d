"""The command lines of the small commands: ``evaluate``, ``predict``, ``export``, ``explain``, ``report``, ``inspect``,
``index``, ``demo``, ``doctor``.

Neither torch nor transformers is imported here, so ``--help`` and errors come at once.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from datamodules.spelling import did_you_mean
from eval.benchmarks.catalogue import known, names
from lightning_modules.errors import fail

FITS = ("centre_crop", "squash", "squash_bilinear", "longest", "letterbox")
WORDINGS = ("raw", "first_line", "first_filled_line", "one_line", "lotlip", "deduplicated")
KINDS = ("image", "caption", "sentence", "phrase")
MODEL = ".ckpt file of a run, or folder, weights file, hub id, open_clip:NAME/TAG of a CLIP"
START = "with --interpolate: the model that the run started from; without it the run's model.pretrained"
SHARDS = "tars, folders of tars, globs or braces"
DEVICE = "cpu, cuda, cuda:1, mps; without it a GPU where there is one"


class CommandParser(argparse.ArgumentParser):
    """Stops with one line that says what is wrong with a command's arguments."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"lightning {command}", description=description, allow_abbrev=False)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments; a misspelt flag is reported before a missing one."""
        for word in words:
            flag = word.partition("=")[0]
            if word.startswith("--") and flag not in self._option_string_actions:
                fail(f"{self.prog} has no {flag}{did_you_mean(flag, self._option_string_actions) or self._hint()}")
        return self.parse_args(words)

    @override
    def error(self, message: str) -> NoReturn:
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            fail(f"{self.prog} needs {missing.replace(', ', ' and ')}{self._hint()}")
        if message.startswith("unrecognized arguments: "):
            fail(f"{self.prog} does not know what {message.removeprefix('unrecognized arguments: ')!r} is for")
        line = message.removeprefix("argument ").replace(": must ", " must ", 1)
        fail(re.sub(": expected (one|at least one) argument", " needs a value", line))

    def _hint(self) -> str:
        nameless = [str(action.metavar or action.dest).upper() for action in self._actions if not action.option_strings]
        usage = f"it is `{' '.join([self.prog, *nameless])} [--OPTION ...]`, and " if nameless else ""
        return f"; {usage}`{self.prog} --help` lists what it takes"


def evaluate() -> CommandParser:
    """``lightning evaluate``."""
    about = "Published benchmarks on official files, for a run's checkpoint or any CLIP. Several models are compared "
    about += "with the first, item by item. Started by torchrun, ranks share the work, and the numbers are the same."
    parser = CommandParser("evaluate", about)
    parser.add_argument("--model", required=True, action="append", help=f"{MODEL}; several are compared with the first")
    choices = f"one or several, parted by commas: {', '.join(names())}"
    parser.add_argument("--benchmark", required=True, type=_benchmarks, metavar="NAMES", help=choices)
    parser.add_argument("--root", required=True, type=Path, help="folder of the data sets in their released layouts")
    parser.add_argument("--out", type=Path, help="folder for JSON, Markdown, LaTeX; or a .json file alone")
    parser.add_argument("--items", action="store_true", help="also write single results as Parquet into --out/items")
    parser.add_argument("--tensorboard", type=Path, help="folder for TensorBoard scalars")
    parser.add_argument("--cache", type=Path, help="folder that caches embeddings")
    _batch_size(parser)
    parser.add_argument("--device", help=DEVICE)
    parser.add_argument("--skip_missing", action="store_true", help="leave out, and count, images that are missing")
    _choice(parser, "--fit", FITS, "how images become squares; else as published")
    _choice(parser, "--captions", WORDINGS, "what is done to captions of retrieval")
    rerank = "also re-rank retrieval: the N nearest candidates of each query, scored anew by the text-conditioned "
    rerank += "pooling of BetaClip or GrainClip; each image is encoded twice"
    parser.add_argument("--rerank", type=_at_least(1), metavar="N", help=rerank)
    shares = "shares of the run's weights, as 0,0.5,1; the rest is of those that it started from; a table by share"
    parser.add_argument("--interpolate", type=_shares, metavar="SHARES", help=shares)
    parser.add_argument("--start", metavar="MODEL", help=START)
    draws = "draws for the 95 %% intervals; 0: none"
    parser.add_argument("--bootstrap", type=_at_least(0), default=1000, metavar="N", help=draws)
    return parser


def predict() -> CommandParser:
    """``lightning predict``."""
    about = "Embeddings of shards, as NumPy or Parquet files. For each kind KIND.npy holds unit vectors in fp32, a row "
    about += "each, and KIND.jsonl the sample's key and the text of each row; or KIND.parquet all three. Started by "
    parser = CommandParser("predict", about + "torchrun, ranks share the work.")
    parser.add_argument("--model", required=True, help=MODEL)
    parser.add_argument("--shards", required=True, nargs="+", help=SHARDS)
    parser.add_argument("--out", required=True, type=Path, help="folder for the files")
    kinds = f"of {', '.join(KINDS)}, parted by commas"
    parser.add_argument("--kinds", default=["image", "caption"], type=_kinds, metavar="KINDS", help=kinds)
    _choice(parser, "--format", ("npy", "parquet"), "of the files", "npy")
    _choice(parser, "--fit", FITS, "how images become squares")
    parser.add_argument("--cache", type=Path, help="folder that caches embeddings")
    _batch_size(parser)
    parser.add_argument("--device", help=DEVICE)
    return parser


def export() -> CommandParser:
    """``lightning export``."""
    about = (
        "A trained model as a folder that transformers, open_clip or onnxruntime load, on the hub too; or a sharded "
    )
    parser = CommandParser("export", about + "checkpoint as one file, to go on from without FSDP2.")
    parser.add_argument("checkpoint", type=Path, help=".ckpt file, or folder, of a run")
    parser.add_argument("folder", type=Path, help="new folder for the model; with --format checkpoint a new .ckpt file")
    formats = "what is written; else what the model's family is known by: transformers for CLIP"
    _choice(parser, "--format", ("transformers", "open_clip", "onnx", "checkpoint"), formats)
    _choice(parser, "--weights", ("trained", "averaged"), "the trained ones, or their running average", "trained")
    _choice(parser, "--dtype", ("float32", "float16", "bfloat16"), "of the weights in the file", "float32")
    share = "share of these weights, from 0 to 1; the rest is of those that the run started from"
    parser.add_argument("--interpolate", type=_share, metavar="SHARE", help=share)
    parser.add_argument("--start", metavar="MODEL", help=START)
    licence = "of the model, as the hub calls it (mit, apache-2.0, cc-by-nc-4.0); it stands in the card"
    parser.add_argument("--license", default="unknown", metavar="ID", help=f"{licence}; unknown if not given")
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="also upload the folder as a new, private model of the hub"
    )
    parser.add_argument("--public", action="store_true", help="with --push: for everybody to see")
    parser.add_argument(
        "--dry_run", action="store_true", help="with --push: list the files, show the card, send nothing"
    )
    return parser


def explain() -> CommandParser:
    """``lightning explain``."""
    about = (
        "Where a model looks in an image when it reads a text, as one web page. For a β-CLIP checkpoint the maps are "
    )
    about += "its pooling block's own attention; for every other model the cosine between the text and each patch."
    parser = CommandParser("explain", about)
    parser.add_argument("--model", required=True, help=MODEL)
    parser.add_argument("--image", required=True, type=Path, help="an image file")
    parser.add_argument("--text", required=True, action="append", help="what to look for; several times for several")
    parser.add_argument("--out", required=True, type=Path, help="the web page to write")
    parser.add_argument("--device", help=DEVICE)
    return parser


def report() -> CommandParser:
    """``lightning report``."""
    about = "Runs side by side in one web page that can be mailed: curves, numbers, images, settings."
    parser = CommandParser("report", about)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run's logs")
    parser.add_argument("--out", required=True, type=Path, help="the web page to write")
    return parser


def inspect() -> CommandParser:
    """``lightning inspect``."""
    parser = CommandParser("inspect", "Look at samples of shards, in the terminal or as a web page.")
    parser.add_argument("shards", nargs="+", help=SHARDS)
    parser.add_argument("--number", type=_at_least(1), default=8, metavar="N", help="how many samples")
    seed = "draw them at random; without it the first ones are shown"
    parser.add_argument("--seed", type=_at_least(0), metavar="N", help=seed)
    parser.add_argument("--key", action="append", default=[], help="show the samples with this key (several times)")
    parser.add_argument("--html", type=Path, help="write a web page there instead")
    return parser


def index() -> CommandParser:
    """``lightning index``."""
    parser = CommandParser("index", "A small file beside each tar that says where its samples lie.")
    parser.add_argument("shards", nargs="+", help=SHARDS)
    parser.add_argument("--processes", type=_at_least(1), default=1, metavar="N", help="tars indexed at a time")
    parser.add_argument("--again", action="store_true", help="also where an index that fits is there")
    return parser


def demo() -> CommandParser:
    """``lightning demo``."""
    about = (
        "A small CLIP before and after fine-tuning on long captions, beside plain CLIP, in three minutes on 2 cores."
    )
    parser = CommandParser("demo", about)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of its two runs; runs if not given")
    return parser


def doctor() -> CommandParser:
    """``lightning doctor``."""
    parser = CommandParser("doctor", "What is missing here, and what to do about it.")
    parser.add_argument("--shards", help="also check these shards: a tar, a folder, a glob or braces")
    return parser


def _batch_size(parser: CommandParser) -> None:
    parser.add_argument("--batch_size", type=_at_least(1), default=32, metavar="N", help="images encoded at once")


def _choice(parser: CommandParser, flag: str, choices: Sequence[str], about: str, default: str | None = None) -> None:
    def choice(word: str) -> str:
        if word not in choices:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(choices)}, got {word!r}{did_you_mean(word, choices)}"
            )
        return word

    text = about if default is None else f"{about}; {default} if not given"
    parser.add_argument(flag, type=choice, default=default, metavar="{" + ",".join(choices) + "}", help=text)


def _at_least(bound: int) -> Callable[[str], int]:
    def number(word: str) -> int:
        if not word.removeprefix("-").isdecimal() or int(word) < bound:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {bound}, got {word!r}")
        return int(word)

    return number


def _share(word: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {word!r}")
    return share


def _shares(words: str) -> list[float]:
    return [float(share) for share in _each_once([f"{_share(word):g}" for word in _split(words)], words)]


def _split(words: str) -> list[str]:
    """Names separated by commas, without blanks around them."""
    return [name for part in words.split(",") if (name := part.strip())]


def _benchmarks(words: str) -> list[str]:
    try:
        benchmarks = [known(name) for name in _split(words)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return _each_once(benchmarks, words)


def _kinds(words: str) -> list[str]:
    kinds = _split(words)
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        near = did_you_mean(wrong[0], KINDS)
        raise argparse.ArgumentTypeError(f"must be of {', '.join(KINDS)}, got {wrong[0]!r}{near}")
    return _each_once(kinds, words)


def _each_once(names: list[str], words: str) -> list[str]:
    if not names:
        raise argparse.ArgumentTypeError(f"must be one or more names parted by commas, got {words!r}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise argparse.ArgumentTypeError(f"must name each once, got {twice!r} twice")
    return names
