"""``lightning doctor``: is this machine ready to train, and where it is not, what to do about it.

The checks only look: they download nothing and write nothing. Heavy packages are imported inside the check that needs
them, so that a broken installation becomes a line of the report and not a traceback. ``ok`` asks for nothing, a
``note`` is good to know, a ``problem`` stops some command; only problems make the exit status 1.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

PACKAGES = (
    *("torch", "torchvision", "lightning", "pytorch-lightning", "timm", "transformers", "torchmetrics"),
    *("webdataset", "nltk", "open_clip_torch", "tensorboard"),
)
PACKAGES_OF_OURS = ("lightning_modules", "datamodules", "eval", "losses")
MALWARE = {(name, version) for name in ("lightning", "pytorch-lightning") for version in ("2.6.2", "2.6.3")}
GIB = 2**30
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ASK_FOR_HUGE_PAGES = "glibc.malloc.hugetlb=1"


@dataclass(frozen=True)
class Check:
    """One line of the report: subject, status, finding and, unless that is ok, advice."""

    name: str
    status: Literal["ok", "note", "problem"]
    finding: str
    advice: str = ""


def doctor(shards: str | None = None) -> int:
    """Print the report; the status is 1 where there is a problem. ``shards``: a tar, a folder, a glob or braces."""
    checks = gather(shards)
    sys.stdout.write(render(checks))
    return int(any(check.status == "problem" for check in checks))


def run(args: Namespace) -> int:
    """The command."""
    return doctor(args.shards)


def gather(shards: str | None = None) -> list[Check]:
    """All checks, in the order of the report."""
    environment = [python(), *packages(), torch_pair(), *devices(), *command()]
    return [*environment, *names(Path.cwd()), tokenizer(), *nltk_data(), data(shards), disk(Path.cwd())]


def render(checks: Iterable[Check]) -> str:
    """The report as text: a line per check, its advice below it, the count of each status at the end."""
    checks = list(checks)
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:7}  {check.name:{width}}  {check.finding}")
        if check.advice:
            lines.append(f"{'':7}  {'':{width}}  -> {check.advice}")
    counts = {status: sum(check.status == status for check in checks) for status in ("ok", "note", "problem")}
    lines.append(", ".join(f"{status}: {count}" for status, count in counts.items()))
    return "\n".join(lines) + "\n"


def python() -> Check:
    """The interpreter; pip has seen to it that it is new enough."""
    return Check("python", "ok", f"{sys.version.split()[0]} ({sys.executable})")


def packages() -> list[Check]:
    """Compare the version of each main package with what the installed ``grainclip`` requires."""
    try:
        requirements = [Requirement(text) for text in metadata.requires("grainclip") or []]
        ours = Check("grainclip", "ok", metadata.version("grainclip"))
    except metadata.PackageNotFoundError:
        requirements = []
        ours = Check("grainclip", "note", "not installed: runs in its source folder only", "pip install -e .")
    by_name = {requirement.name: requirement for requirement in requirements if requirement.marker is None}
    return [ours, *(package(by_name.get(name, Requirement(name))) for name in PACKAGES)]


def package(requirement: Requirement) -> Check:
    """Checks that a package is installed in a version that ``requirement`` allows and that carries no malware."""
    name, advice = requirement.name, f"pip install '{requirement}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "problem", "not installed", advice)
    if (name, version) in MALWARE:
        advice = f"pip install '{name}>=2.6.4,<2.7', and replace every password and token this machine could read"
        return Check(name, "problem", f"{version}: this release carried malware (GHSA-w37p-236h-pfx3)", advice)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(name, "problem", f"{version}, but {requirement.specifier} is needed", advice)
    return Check(name, "ok", version)


def torch_pair() -> Check:
    """Checks that torchvision's compiled ops load beside this torch: both must be of the same build."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        advice = "install both in one command from one registry: pip install --force-reinstall torch torchvision"
        return Check("torch + torchvision", "problem", _first_line(error), advice)
    return Check("torch + torchvision", "ok", f"{torch.__version__} and {torchvision.__version__} match")


def devices() -> list[Check]:
    """The CPU, every CUDA device, and the precision that each runs natively."""
    try:
        import torch

        from lightning_modules.cli.precision import best_precision
    except (ImportError, OSError) as error:
        return [Check("devices", "problem", _first_line(error), "pip install torch torchvision")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = torch.backends.cpu.get_cpu_capability()
    cpu = f"{torch.get_num_threads()} threads on {cores} cores ({kind}); trains in {best_precision('cpu')}"
    with warnings.catch_warnings(record=True) as caught:  # torch tells of a driver too old for it in a warning
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cuda = [cuda_device(index) for index in range(count)]
    if cuda:
        return [Check("CPU", "ok", cpu), *cuda]
    return [Check("CPU", "ok", cpu), *huge_pages(), no_cuda([_first_line(warning.message) for warning in caught])]


def huge_pages() -> list[Check]:
    """A note where nothing asks for memory in pages of 2 MB: with them the CPU of a virtual machine trains faster.

    glibc 2.35 and newer asks where ``GLIBC_TUNABLES`` says so when a process starts. Nothing is said where the kernel
    gives such pages always or never.
    """
    name, (libc, version) = "huge pages", platform.libc_ver()
    if not HUGE_PAGES.is_file() or "[madvise]" not in HUGE_PAGES.read_text() or libc != "glibc":
        return []
    if ASK_FOR_HUGE_PAGES in os.environ.get("GLIBC_TUNABLES", ""):
        return [Check(name, "ok", f"GLIBC_TUNABLES={ASK_FOR_HUGE_PAGES}: asked for")]
    if Version(version) < Version("2.35"):
        return []
    finding = "not asked for: on a virtual machine training on the CPU may be several times slower without"
    return [Check(name, "note", finding, f"export GLIBC_TUNABLES={ASK_FOR_HUGE_PAGES}; `make` does")]


def no_cuda(reasons: Sequence[str]) -> Check:
    """A machine without a GPU is fine; one with an NVIDIA driver that torch cannot use deserves a note."""
    if not reasons and shutil.which("nvidia-smi") is None:
        return Check("CUDA", "ok", "no device: training runs on the CPU")
    finding = "; ".join(reasons) or "an NVIDIA driver is installed, but torch sees no device"
    return Check("CUDA", "note", finding, "see `nvidia-smi` and CUDA_VISIBLE_DEVICES; torch may need a newer driver")


def cuda_device(index: int) -> Check:
    """One CUDA device: name, memory, compute capability, precision, and whether this torch has kernels for it."""
    import torch

    from lightning_modules.cli.precision import best_precision

    properties = torch.cuda.get_device_properties(index)
    major, minor = properties.major, properties.minor
    device = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, capability {major}.{minor}"
    if not has_kernels((major, minor), torch.cuda.get_arch_list()):
        advice = f"install a torch that is built for sm_{major}{minor}, or hide the device by CUDA_VISIBLE_DEVICES"
        return Check(f"cuda:{index}", "problem", f"{device}; torch {torch.__version__} has no kernels for it", advice)
    with torch.cuda.device(index):
        return Check(f"cuda:{index}", "ok", f"{device}; trains in {best_precision('cuda')}")


def has_kernels(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """True if a torch built for ``architectures`` runs on ``capability``.

    Machine code (``sm_86``) runs on its own major version from its minor version on, PTX (``compute_86``) on all later
    devices. A build that names neither (ROCm's ``gfx90a``) is taken to fit.
    """
    built = [match for name in architectures if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name))]
    fits = [
        capability >= (int(major), int(minor)) and (kind == "compute" or capability[0] == int(major))
        for kind, major, minor in (match.groups() for match in built)
    ]
    return not fits or any(fits)


def command() -> list[Check]:
    """Checks which program the word ``lightning`` starts: other products install a command of that name too."""
    name, here = "lightning command", Path(sys.executable).parent / "lightning"
    reinstall = "pip install --force-reinstall --no-deps -e ."
    activate = f"source {here.parent / 'activate'}; `grainclip` and `python -m lightning_modules` are the same program"
    on_path = shutil.which("lightning")
    if here.exists() and b"lightning_modules.cli.main" not in here.read_bytes():
        advice = f"`grainclip` is the same program; {reinstall} brings `lightning` back"
        checks = [Check(name, "problem", f"{here} belongs to another package", advice)]
    elif on_path is None:
        checks = [Check(name, "note", "not on the PATH", activate)]
    elif not here.exists() or not here.samefile(on_path):
        checks = [Check(name, "note", f"{on_path} is another environment's or product's", activate)]
    else:
        checks = [Check(name, "ok", f"{on_path} is ours")]
    if any(metadata.distributions(name="lightning-sdk")):
        finding = "installed: it has a `lightning` command too, and the package installed last owns the name"
        advice = f"`grainclip` always works; after removing it: {reinstall}"
        checks.append(Check("lightning-sdk", "note", finding, advice))
    return checks


def names(folder: Path) -> list[Check]:
    """The files and folders in ``folder`` that have the name of one of our packages, and hide it in a Python there."""
    ours = Path(__file__).resolve().parents[2]
    if folder.resolve() == ours:
        return [Check("package names", "ok", f"{folder} is GrainCLIP's own folder")]
    hiding = [path for name in PACKAGES_OF_OURS for path in (folder / f"{name}.py", folder / name / "__init__.py")]
    found = [str(path.relative_to(folder)) for path in hiding if path.is_file()]
    if not found:
        return [Check("package names", "ok", f"nothing in {folder} hides a package of ours")]
    finding = f"{', '.join(found)} in {folder}: Python here finds {'it' if len(found) == 1 else 'them'} before ours"
    advice = "rename it; the commands do not mind, and notebooks not where lightning_modules is imported first"
    return [Check("package names", "note", finding, advice)]


def tokenizer() -> Check:
    """Checks that OpenAI's BPE merges come with the installed open_clip_torch; no model hub is needed for them."""
    try:
        from datamodules.batching.tokenizer import Tokenizer

        Tokenizer()("a red cube")
    except (ImportError, OSError) as error:
        return Check("tokenizer", "problem", _first_line(error), "pip install open_clip_torch")
    return Check("tokenizer", "ok", "OpenAI's BPE, from open_clip_torch: no model hub is needed")


def nltk_data() -> list[Check]:
    """Checks that NLTK finds the data of its sentence splitter and tagger, which only ``lightning prepare`` needs."""
    try:
        import nltk.data

        from datamodules.granularity.nltk_data import RESOURCES
    except ImportError as error:
        return [Check("NLTK data", "problem", _first_line(error), "pip install nltk")]
    checks = []
    for name, path in RESOURCES.items():
        try:
            checks.append(Check(f"NLTK {name}", "ok", str(nltk.data.find(path))))
        except LookupError:
            advice = f"python -m nltk.downloader {name}; or set NLTK_DATA to the folder that holds it"
            checks.append(Check(f"NLTK {name}", "note", "not found; `prepare` needs it, training does not", advice))
    return checks


def data(shards: str | None) -> Check:
    """The shards asked for, or else the embedded data set, which is written on the first run."""
    try:
        from datamodules.shards.discovery import ShardError, find_shards
    except ImportError as error:
        return Check("shards", "problem", _first_line(error), "pip install webdataset")
    if shards is None:
        return embedded()
    try:
        shard_list = find_shards(shards)
    except ShardError as error:
        return Check("shards", "problem", str(error), "give a tar, a folder of tars, a glob or braces")
    counts = [shard.samples for shard in shard_list]
    samples = "not counted: remote" if None in counts else f"{sum(n for n in counts if n is not None)} samples"
    return Check("shards", "ok", f"{len(shard_list)} at {shards} ({samples})")


def embedded() -> Check:
    """The embedded data set, or whether its cache folder can be written when the first run makes it."""
    from datamodules.scenes.shards import MANIFEST, default_cache

    cache = default_cache()
    sizes = sorted(manifest.parent.name for manifest in cache.glob(f"*/{MANIFEST}"))
    if sizes:
        return Check("embedded data", "ok", f"{', '.join(sizes)} in {cache}")
    nearest = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
    if not os.access(nearest, os.W_OK):
        return Check(
            "embedded data", "problem", f"{nearest} cannot be written", "set GRAINCLIP_CACHE to a folder of yours"
        )
    return Check("embedded data", "ok", f"not in {cache} yet: the first run writes it there")


def disk(folder: Path) -> Check:
    """Free space where runs are written."""
    free = shutil.disk_usage(folder).free / GIB
    status = "problem" if free < 1 else "note" if free < 10 else "ok"
    advice = "" if status == "ok" else "make room, or run in another folder: checkpoints are written below it"
    return Check("disk", status, f"{free:.1f} GiB free in {folder}", advice)


def _first_line(error: object) -> str:
    return str(error).strip().split("\n", 1)[0]
