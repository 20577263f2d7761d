"""``lightning evaluate``: published benchmarks on official files, for a run's checkpoint or any CLIP.

``eval.benchmarks.catalogue`` lists the benchmarks. Several models are compared with the first, item by item. Started by
``torchrun``, ranks share the work, and the numbers are the same.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import track

from eval.benchmarks.catalogue import find_benchmarks, retrieves
from eval.data.cache import Cache
from eval.data.caption_preprocessing import WORDINGS
from eval.data.image_preprocessing import FITS
from eval.interfaces import Benchmark, EvalContext, T
from eval.metrics.gather import rank
from eval.results.per_item import parquet
from eval.results.tables import Tables, side_by_side, table
from lightning_modules.checkpoints.metadata import KEY, commit
from lightning_modules.cli.evaluate_outputs import OPTIONS, Evaluation, Folder, compare
from lightning_modules.cli.interpolation import Line, line_of
from lightning_modules.cli.model_names import model_names
from lightning_modules.cli.read_checkpoint import check_there, encoder_of, pooling_of, read
from lightning_modules.errors import fail
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import Encoder, TextConditionedPooling, load_encoder
from lightning_modules.networks.contract import plain_config, shown_config
from lightning_modules.networks.weights.files import fetch

logger = logging.getLogger("grainclip")


def load_model(source: str, device: torch.device) -> tuple[EvaluationModel, dict[str, Any]]:
    """The model of a ``.ckpt`` file of a run, with its text-conditioned attention where it has one, or of any CLIP; and
    plain words about it. Raises as ``load``.
    """
    encoder, words, pooling = _load(source)
    return EvaluationModel(encoder, device, pooling), words


def load(source: str) -> tuple[Encoder, dict[str, Any]]:
    """The encoder of a ``.ckpt`` file of a run (whatever its method), else of a folder, a weights file or a hub id; and
    plain words about it.

    Raises:
        ValueError: where the weights are damaged or of another architecture.
        FileNotFoundError: where there are none.
    """
    encoder, words, _ = _load(source)
    return encoder, words


def _load(source: str) -> tuple[Encoder, dict[str, Any], TextConditionedPooling | None]:
    if Path(source).suffix != ".ckpt":
        encoder = load_encoder(source)
        return encoder, {"source": source, "encoder": shown_config(plain_config(encoder.config))}, None
    saved = read(Path(source))
    origin = saved[KEY]
    words = {name: origin[name] for name in ("method", "steps", "commit")} | {
        "encoder": shown_config(origin["encoder"])
    }
    return encoder_of(saved), {"source": source, **words}, pooling_of(saved)


def evaluate(
    source: str,
    benchmarks: Sequence[Benchmark],
    run: EvalContext,
    device: torch.device,
    keep: Callable[[Evaluation], None] | None = None,
    name: str | None = None,
    check: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Run the benchmarks one after the other; ``check`` is called before them, ``keep`` after each, so that no result
    is lost. Collective.

    ``name`` is the model's name in tables; None: made of its run's folder and file.

    Raises:
        ValueError, FileNotFoundError: the model, a file or an image is at fault; the message says which.
    """
    return measure(*load_model(source, device), benchmarks, run, keep, name, check)


def measure(
    model: EvaluationModel,
    words: dict[str, Any],
    benchmarks: Sequence[Benchmark],
    run: EvalContext,
    keep: Callable[[Evaluation], None] | None = None,
    name: str | None = None,
    check: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """As ``evaluate``, for a model that is loaded, and plain words about it. Collective."""
    source: str = words["source"]
    settings: dict[str, Any] = {"model": words | {"sha256": model.weights}}
    settings |= {"version": version("grainclip"), "commit": commit(), "batch_size": run.batch_size}
    chosen = (
        None if run.fit is None else run.fit.__name__,
        None if run.wording is None else run.wording.__name__,
        run.rerank,
        run.skip_missing,
    )
    settings |= dict(zip(OPTIONS, chosen, strict=True)) | {"benchmarks": {}}
    evaluation = Evaluation(source, name or model_names([source])[0], settings, {})
    if check is not None:
        check(evaluation)
    for benchmark in benchmarks:
        result = benchmark(model, run)
        if twice := sorted(result.numbers.keys() & evaluation.numbers.keys()):
            raise ValueError(
                f"{benchmark.__name__}: numbers must have names of their own, got {twice[0]} twice; run it apart"
            )
        if rank() == 0:
            for reason, count in sorted(result.counts.items()):
                logger.warning("%s: %d × %s", benchmark.__name__, count, reason)
        evaluation.results[benchmark.__name__] = result
        evaluation.settings["benchmarks"][benchmark.__name__] = result.settings
        if keep is not None and rank() == 0:
            keep(evaluation)
    return evaluation


def run(args: Namespace) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    try:
        benchmarks = find_benchmarks(args.benchmark, "--benchmark ")
        device = wanted_device(args.device)
        if args.items:
            parquet()
        _check_rerank(args)
        line = _line(args)
        names = model_names(args.model)
        if line is not None:
            names = [f"{names[0]}-{share:g}" for share in args.interpolate]
        out = Folder(args.out, names, args.items, args.bootstrap, args.tensorboard)
        for source in args.model:
            _check_there(source)
        with TorchrunGroup(device):
            settings = EvalContext(
                args.root,
                args.batch_size,
                args.skip_missing,
                progress,
                None if args.cache is None else Cache(args.cache),
                next((fit for fit in FITS if fit.__name__ == args.fit), None),
                next((wording for wording in WORDINGS if wording.__name__ == args.captions), None),
                args.rerank,
            )
            titles = [benchmark.__name__ for benchmark in benchmarks]
            sources = args.model if line is None else args.interpolate
            load = partial(load_model if line is None else line.model, device=device)
            evaluations: list[Evaluation] = []

            def begin(evaluation: Evaluation) -> None:
                out.check(evaluation, titles)
                evaluations.append(evaluation)

            try:
                for source, name in zip(sources, names, strict=True):
                    measure(*load(source), benchmarks, settings, out.writer(name), name, begin)
            except BaseException:  # an interruption too
                if rank() == 0:
                    _show_tables([evaluation for evaluation in evaluations if evaluation.results])
                raise
            if rank() == 0:
                _show(evaluations, out, args.bootstrap, args.interpolate)
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    return 0


def _check_there(source: str) -> None:
    """Raise FileNotFoundError where there is no such model; one of the hub is downloaded."""
    if Path(source).suffix == ".ckpt":
        check_there(Path(source))
    else:
        fetch(source)


def _check_rerank(args: Namespace) -> None:
    """Raise ValueError where ``--rerank`` is given and a benchmark or a model cannot re-rank."""
    if args.rerank is None:
        return
    if other := [name for name in args.benchmark if not retrieves(name)]:
        raise ValueError(f"--rerank re-orders retrieval, which {other[0]} is not: evaluate it apart")
    for source in args.model:
        checkpoint = Path(source)
        if checkpoint.suffix != ".ckpt" or pooling_of(read(checkpoint)) is None:
            raise ValueError(
                f"--rerank needs text-conditioned pooling: --model must be a checkpoint of BetaClip or GrainClip, got "
                f"{source}"
            )


def _line(args: Namespace) -> Line | None:
    """The line of ``--interpolate``; None where it is not asked for."""
    if args.interpolate is None:
        if args.start is not None:
            raise ValueError(f"--start goes with --interpolate, got {args.start} alone")
        return None
    if len(args.model) > 1 or Path(args.model[0]).suffix != ".ckpt":
        raise ValueError(f"--interpolate takes one --model, the .ckpt file of a run, got {', '.join(args.model)}")
    checkpoint = Path(args.model[0])
    return line_of(checkpoint, read(checkpoint), args.start)


def _show(evaluations: list[Evaluation], out: Folder, draws: int, shares: Sequence[float] | None) -> None:
    console = Console()
    if shares is not None:
        by_share = {f"{share:g}": evaluation for share, evaluation in zip(shares, evaluations, strict=True)}
        title = f"{evaluations[0].source}, by the share of its weights"
        console.print(Tables([side_by_side({share: e.numbers for share, e in by_share.items()})], title))
        out.write_line(by_share)
        return
    _show_tables(evaluations)
    for evaluation in evaluations[1:]:
        comparison = compare(evaluations[0], evaluation, draws)
        console.print(comparison.table())
        out.write_comparison(comparison)


def _show_tables(evaluations: Sequence[Evaluation]) -> None:
    console = Console()
    for evaluation in evaluations:
        console.print(table(evaluation.numbers, title=evaluation.name))


class TorchrunGroup:
    """Context with the process group that ``torchrun`` asks for; without torchrun it does nothing."""

    def __init__(self, device: torch.device) -> None:
        self.backend = "nccl" if device.type == "cuda" else "gloo"
        self.owned = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()

    def __enter__(self) -> None:
        if self.owned:
            if self.backend == "nccl":
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            dist.init_process_group(self.backend)

    def __exit__(self, *error: object) -> None:
        if self.owned:
            dist.destroy_process_group()


def wanted_device(name: str | None) -> torch.device:
    """The device called ``name`` (None: a GPU where there is one), under ``torchrun`` this rank's. Raises ValueError
    where there is none.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        message = str(error).partition(". ")[0]
        reason = "name cpu, cuda, cuda:1 or mps" if message.startswith("Expected one of") else message[:60]
        raise ValueError(f"--device must be a device that is here, got {name!r}: {reason}") from error


def progress(steps: Sequence[T], description: str) -> Iterable[T]:
    """rich's progress bar, where a person is watching the first rank."""
    hidden = not sys.stderr.isatty() or rank() > 0
    return track(steps, description, console=Console(stderr=True), disable=hidden)
