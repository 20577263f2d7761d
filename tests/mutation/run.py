"""``make mutation``: would the tests notice if a package were wrong?

Draws faults at random, plants each in a process of its own, and runs the package's tests there until one fails. Those
that no test notices are listed; some change nothing that can be seen, and ``tests/mutation/survivors.md`` says which.
Left out: ``eval/drawing``, whose numbers are places on paper, and tests on several ranks, whose processes would not see
the fault; so is what only they test. Of ``datamodules`` it is what decides which sample comes when, and what a batch
holds; of ``lightning_modules`` the methods, the optimiser, gradient caching and checkpoints.

What was found is written down after each fault, with a digest of the module and its tests: started again, it goes on,
and looks again only where one of them has changed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Collection, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.mutation.mutants import Mutant, count, mutant  # noqa: E402

DATAMODULES = {  # by module: its tests in tests/datamodules, and in tests/lightning_modules
    "reading/shuffle_order": ("order indexed", ""),
    "reading/mixture": ("mixture indexed stream", ""),
    "reading/local_shards": ("indexed even_passes bad_samples", "sample_identity"),
    "reading/loader": ("indexed bad_samples stream storage", ""),
    "reading/bad_samples": ("bad_samples indexed", ""),
    "reading/remote_order": ("stream storage", ""),
    "reading/remote_shards": ("stream storage", "sample_identity"),
    "shards/download": ("fetch_retries storage stream", ""),
    "shards/transfer": ("fetch_retries storage stream", ""),
    "reading/select_reader": ("indexed stream", "elastic"),
    "reading/resume": ("indexed", "fit elastic"),
    "reading/global_batch": ("global_batch indexed", ""),
    "batching/collate": ("collate crops stored_tokens", ""),
    "batching/text_sampling": ("collate", ""),
    "batching/region_sampling": ("crops collate", ""),
}
METHODS = {  # by module of lightning_modules: its tests there
    "methods/base": "optimisation beta_clip data_check average_weights fit",
    "methods/beta_clip": "beta_clip default_settings",
    "methods/clip": "optimisation",
    "methods/mul_clip": "mul_clip default_settings",
    "methods/harmo_clip": "harmo_clip harmo_training",
    "methods/harmo_region_losses": "harmo_region_losses harmo_clip default_settings",
    "methods/optimizers": "optimisation default_settings",
    "methods/gradient_cache": "gradient_cache default_settings",
    "methods/data_check": "data_check",
    "checkpoints/weight_interpolation": "average_weights",
    "checkpoints/atomic_save": "atomic_io",
    "callbacks/average_weights": "average_weights optimisation",
    "callbacks/checkpoints": "fit atomic_io",
}
PACKAGES = {  # where faults are planted, and what may notice them
    "losses": {"losses": ["losses/"]},
    "eval": {"eval": ["eval/", "lightning_modules/test_evaluate"]},
    "datamodules": {
        f"datamodules/{module}.py": [
            *(f"datamodules/test_{name}.py" for name in own.split()),
            *(f"lightning_modules/test_{name}.py" for name in others.split()),
        ]
        for module, (own, others) in DATAMODULES.items()
    },
    "lightning_modules": {
        f"lightning_modules/{module}.py": [f"lightning_modules/test_{name}.py" for name in names.split()]
        for module, names in METHODS.items()
    },
}
LEFT_OUT = ("eval/drawing", "eval/metrics/gather.py", "losses/core/process_group.py")
SLOW_IMPORTS = (
    "pytest",
    "hypothesis",
    "lightning.pytorch",
    "torchmetrics",
    "transformers",
    "matplotlib.figure",
    "timm",
)
NOT_IMPORTED = 9  # exit status
LIMIT = 300  # seconds, or four times what the tests take: a fault that lasts longer made something endless: noticed


def drawn(packages: Sequence[str], number: int, seed: int) -> list[tuple[Path, Mutant]]:
    """So many faults of each package."""
    chance, found = random.Random(seed), []
    for package in packages:
        files = [
            file for file in sorted((ROOT / package).rglob("*.py"))
            if str(file.relative_to(ROOT)).startswith(tuple(PACKAGES[package]))
            and not str(file.relative_to(ROOT)).startswith(LEFT_OUT)
        ]  # fmt: skip
        places = [(file, n) for file in files for n in range(count(file.read_text("utf-8")))]
        chosen = sorted(chance.sample(places, min(number, len(places))))
        found += [(file, mutant(file.read_text("utf-8"), n)) for file, n in chosen]
    return found


def tests_of(file: Path) -> list[str]:
    """The files that may notice a fault in ``file``, its own first."""
    name, tests = str(file.relative_to(ROOT)), ROOT / "tests"
    places = PACKAGES[file.relative_to(ROOT).parts[0]]
    wanted = [test for place, found in places.items() for test in found if name.startswith(place)]
    files = [one for one in sorted(tests.rglob("test_*.py")) if str(one.relative_to(tests)).startswith(tuple(wanted))]
    files = [one for one in files if "run_on_ranks" not in one.read_text("utf-8")]
    return [str(one) for one in sorted(files, key=lambda one: (file.stem not in one.stem, str(one.parent)))]


def digest(file: Path) -> str:
    """Of a module and of what may notice a fault in it: another one, and what was found there holds no longer."""
    return hashlib.sha256(b"".join(Path(one).read_bytes() for one in (file, *tests_of(file)))).hexdigest()[:16]


class _Planted(MetaPathFinder, SourceFileLoader):
    """Finds one module with a fault in it, and leaves all others to the usual finders."""

    def __init__(self, file: Path, tree: ast.Module) -> None:
        self.module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        SourceFileLoader.__init__(self, self.module, str(file))
        self.tree = tree
        self.imported = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return spec_from_file_location(name, self.path, loader=self) if name == self.module else None

    def get_code(self, fullname: str) -> CodeType:
        self.imported = True
        return compile(self.tree, self.path, "exec")


def failing(tests: Collection[str], planted: _Planted | None = None, limit: float = 4 * LIMIT) -> bool:
    """True if one of the tests fails, with a fault or without, or they run beyond so many seconds."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        signal.alarm(math.ceil(limit))
        if planted is not None:
            sys.meta_path.insert(0, planted)
            _put_before_the_shape_checks(planted)
        import pytest

        options = ("-x", "-q", "-m", "not long", "-p", "no:cacheprovider", "--rootdir", str(ROOT))
        failed = int(pytest.main([*options, *tests]) != 0)
        os._exit(failed if planted is None or planted.imported else NOT_IMPORTED)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == NOT_IMPORTED:
        sys.exit(f"none of the tests imported {planted and planted.module}: the fault was not tried")
    return status != 0


def _put_before_the_shape_checks(planted: _Planted) -> None:
    """The tests' own import hook puts itself first, and would find the module as it stands."""
    import jaxtyping

    install = jaxtyping.install_import_hook

    def install_behind(*arguments: Any) -> Any:
        hook = install(*arguments)
        sys.meta_path.remove(planted)
        sys.meta_path.insert(0, planted)
        return hook

    jaxtyping.install_import_hook = install_behind


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="default: all")
    parser.add_argument("--count", type=int, default=50, help="faults of each package (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "mutation.json", help="file (default: runs/...)")
    given = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    for name in SLOW_IMPORTS:  # once, before processes are forked
        importlib.import_module(name)
    faults = drawn(given.packages, given.count, given.seed)
    known = {_name(one): one for one in json.loads(given.out.read_text("utf-8"))} if given.out.exists() else {}
    results = [_described(file, fault) for file, fault in faults]
    left = [n for n, one in enumerate(results) if _name(one) not in known]
    print(f"{len(results) - len(left)} of {len(results)} are known from {given.out}", flush=True)
    limits = {}
    for package in given.packages:
        start = time.perf_counter()
        files = {faults[n][0] for n in left if _package(faults[n][0]) == package}
        if files and failing({test for file in files for test in tests_of(file)}):
            sys.exit(f"the tests of {package} fail as it stands")
        limits[package] = max(LIMIT, 4 * (time.perf_counter() - start))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for done, n in enumerate(left, start=1):
        file, fault = faults[n]
        start = time.perf_counter()
        caught = failing(tests_of(file), _Planted(file, fault.tree), limits[_package(file)])
        known[_name(results[n])] = results[n] | {"noticed": caught}
        given.out.write_text(json.dumps(list(known.values()), indent=1, ensure_ascii=False), encoding="utf-8")
        print(f"{done}/{len(left)}  {'noticed' if caught else 'MISSED'}  {results[n]['place']}  {fault.before}  ->  "
              f"{fault.after}  ({time.perf_counter() - start:.0f} s)", flush=True)  # fmt: skip
    for package in given.packages:
        own = [known[_name(one)] for one in results if one["place"].startswith(package)]
        missed = [one for one in own if not one["noticed"]]
        print(f"{package}: {len(own) - len(missed)} of {len(own)} noticed, {1 - len(missed) / len(own):.0%}")
        for one in missed:
            print(f"  {one['place']}  {one['before']}  ->  {one['after']}")


def _package(file: Path) -> str:
    return file.relative_to(ROOT).parts[0]


def _described(file: Path, fault: Mutant) -> dict[str, Any]:
    place = f"{file.relative_to(ROOT)}:{fault.line}"
    return {"place": place, "before": fault.before, "after": fault.after, "digest": digest(file)}


def _name(result: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(result.get(key)) for key in ("place", "before", "after", "digest"))


if __name__ == "__main__":
    main()
