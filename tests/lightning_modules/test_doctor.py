"""`lightning doctor` on pretended machines: every fault gets its line, its advice and its exit status."""

import io
import platform
import shutil
import sys
import tarfile
from argparse import Namespace
from collections import namedtuple
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from lightning_modules.cli import doctor as doctoring
from lightning_modules.cli.doctor import Check, gather, has_kernels, render


def pretend_versions(monkeypatch, **versions):
    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


def test_report_lists_status_finding_and_advice():
    checks = [
        Check("a", "ok", "1.0"),
        Check("longer", "note", "odd", "do this"),
        Check("b", "problem", "bad", "do that"),
    ]
    assert render(checks).splitlines() == [
        "ok       a       1.0",
        "note     longer  odd",
        "                 -> do this",
        "problem  b       bad",
        "                 -> do that",
        "ok: 1, note: 1, problem: 1",
    ]


@pytest.mark.parametrize(("status", "expected"), [("ok", 0), ("note", 0), ("problem", 1)])
def test_only_problems_fail(monkeypatch, capsys, status, expected):
    monkeypatch.setattr(doctoring, "gather", lambda shards: [Check("thing", status, "finding", "advice")])
    assert doctoring.doctor() == expected
    assert doctoring.run(Namespace(shards="x.tar")) == expected
    assert capsys.readouterr().out.count("thing  finding") == 2


def test_this_machine():
    checks = gather()
    named = {check.name: check for check in checks}
    assert len(named) == len(checks)
    assert {"python", "torch", "torch + torchvision", "CPU", "lightning command", "embedded data", "disk"} <= set(named)
    assert named["torch"].finding == metadata.version("torch")
    assert named["torch + torchvision"].status == "ok"
    assert named["tokenizer"].status == "ok"
    assert all(check.advice for check in checks if check.status != "ok")
    assert not any(check.advice for check in checks if check.status == "ok")


@pytest.mark.parametrize(
    ("wanted", "installed", "status", "finding"),
    [
        ("timm>=1.0,<1.1", "1.0.31", "ok", "1.0.31"),
        ("torch>=2.11", "2.15.0+cu132", "ok", "2.15.0+cu132"),
        ("torch>=2.11", "2.10.1", "problem", ">=2.11"),
        ("lightning>=2.6.4", "2.6.3", "problem", "malware"),
        ("pytorch-lightning", "2.6.2", "problem", "malware"),
        ("timm", "2.6.2", "ok", "2.6.2"),
    ],
)
def test_versions(monkeypatch, wanted, installed, status, finding):
    requirement = Requirement(wanted)
    pretend_versions(monkeypatch, **{requirement.name: installed})
    check = doctoring.package(requirement)
    assert (check.status, finding in check.finding) == (status, True)


def test_missing_package(monkeypatch):
    pretend_versions(monkeypatch)
    check = doctoring.package(Requirement("webdataset>=1.0.2"))
    assert (check.status, check.advice) == ("problem", "pip install 'webdataset>=1.0.2'")


def test_versions_are_held_against_what_grainclip_asks_for(monkeypatch):
    pretend_versions(monkeypatch, grainclip="0.1.0", **dict.fromkeys(doctoring.PACKAGES, "1.5"))
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2.11", "nltk>=1", "timm>=9; extra == 'dev'"])
    status = {check.name: check.status for check in doctoring.packages()}
    assert status["grainclip"] == status["nltk"] == status["timm"] == "ok"
    assert status["torch"] == "problem"


def test_torch_and_torchvision_of_different_builds(monkeypatch):
    def nms(*args):
        raise RuntimeError("operator torchvision::nms does not exist\nlong trace")

    monkeypatch.setattr("torchvision.ops.nms", nms)
    check = doctoring.torch_pair()
    assert (check.status, check.finding) == ("problem", "operator torchvision::nms does not exist")
    assert "torch torchvision" in check.advice


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # a later minor version of the same major
        ((8, 0), ["sm_86"], False),
        ((7, 0), ["sm_75", "sm_80", "compute_120"], False),
        ((12, 0), ["sm_90", "sm_100"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # PTX is compiled for later devices
        ((10, 3), ["sm_80", "sm_100f"], True),
        ((9, 0), ["gfx90a"], True),
    ],
)
def test_kernels_for_a_device(capability, built, runs):
    assert has_kernels(capability, built) == runs


@pytest.mark.parametrize(("architectures", "status"), [(["sm_75", "sm_90"], "ok"), (["sm_100"], "problem")])
def test_cuda_device(monkeypatch, architectures, status):
    card = SimpleNamespace(name="H200", major=9, minor=0, total_memory=139 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", lambda index: io.StringIO())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    cpu, cuda = doctoring.devices()
    assert (cpu.status, cuda.name, cuda.status) == ("ok", "cuda:0", status)
    assert cuda.finding.startswith("H200, 139 GiB, capability 9.0")


@pytest.mark.parametrize(
    ("reasons", "driver", "status"), [([], None, "ok"), ([], "nvidia-smi", "note"), (["driver too old"], None, "note")]
)
def test_no_cuda_device(monkeypatch, reasons, driver, status):
    monkeypatch.setattr(shutil, "which", lambda name: driver)
    check = doctoring.no_cuda(reasons)
    assert check.status == status
    assert all(reason in check.finding for reason in reasons)


@pytest.mark.parametrize(
    ("kernel", "libc", "tunables", "status"),
    [
        ("always [madvise] never", ("glibc", "2.36"), "", "note"),
        ("always [madvise] never", ("glibc", "2.36"), "glibc.malloc.check=1:glibc.malloc.hugetlb=1", "ok"),
        ("always [madvise] never", ("glibc", "2.31"), "", None),  # too old to be told
        ("always [madvise] never", ("", ""), "", None),  # musl
        ("[always] madvise never", ("glibc", "2.36"), "", None),
        (None, ("glibc", "2.36"), "", None),
    ],
)
def test_huge_pages(monkeypatch, tmp_path, kernel, libc, tunables, status):
    place = tmp_path / "enabled"
    if kernel is not None:
        place.write_text(kernel)
    monkeypatch.setattr(doctoring, "HUGE_PAGES", place)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    assert [check.status for check in doctoring.huge_pages()] == ([] if status is None else [status])


OURS = "from lightning_modules.cli.main import main"
THEIRS = "from lightning_sdk.cli.entrypoint import main_cli"


@pytest.mark.parametrize(
    ("installed", "on_path", "status", "finding"),
    [
        (OURS, "here", "ok", "is ours"),
        (OURS, "elsewhere", "note", "another"),
        (OURS, None, "note", "not on the PATH"),
        (THEIRS, "here", "problem", "belongs to another package"),
        (None, "elsewhere", "note", "another"),
        (None, None, "note", "not on the PATH"),
    ],
)
def test_which_lightning(monkeypatch, tmp_path, installed, on_path, status, finding):
    here, elsewhere = tmp_path / "bin" / "lightning", tmp_path / "elsewhere" / "lightning"
    for script, text in ((here, installed), (elsewhere, THEIRS)):
        script.parent.mkdir()
        if text:
            script.write_text(text)
    monkeypatch.setattr(sys, "executable", str(here.parent / "python"))
    monkeypatch.setattr(
        shutil, "which", lambda name: str({"here": here, "elsewhere": elsewhere}.get(on_path) or "") or None
    )
    monkeypatch.setattr(metadata, "distributions", lambda name: [])
    (check,) = doctoring.command()
    assert (check.status, finding in check.finding) == (status, True)


def test_lightning_sdk_gets_a_note(monkeypatch):
    monkeypatch.setattr(metadata, "distributions", lambda name: ["lightning-sdk"])
    assert doctoring.command()[-1].status == "note"


def test_nltk_data(monkeypatch, tmp_path):
    import nltk.data

    (tmp_path / "tokenizers" / "punkt_tab" / "english").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    punkt, tagger = doctoring.nltk_data()
    assert punkt.status == "ok"
    assert str(tmp_path) in punkt.finding
    assert tagger.status == "note"
    assert "nltk.downloader averaged_perceptron_tagger_eng" in tagger.advice


def test_shards(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.jpg", "0.json", "1.jpg", "1.json"):
            tar.addfile(tarfile.TarInfo(name))
    assert doctoring.data(str(tmp_path)) == Check("shards", "ok", f"1 at {tmp_path} (2 samples)")
    missing = doctoring.data(str(tmp_path / "no-*.tar"))
    assert missing.status == "problem"
    assert "no-*.tar" in missing.finding


def test_embedded_data(monkeypatch, tmp_path):
    monkeypatch.setenv("GRAINCLIP_CACHE", str(tmp_path / "cache"))
    check = doctoring.data(None)
    assert check.status == "ok"
    assert "first run writes it" in check.finding
    (tmp_path / "cache" / "scenes-v1").mkdir(parents=True)
    (tmp_path / "cache" / "scenes-v1" / "manifest.json").write_text("{}")
    assert doctoring.data(None).finding == f"scenes-v1 in {tmp_path / 'cache'}"


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("GRAINCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    check = doctoring.data(None)
    assert check.status == "problem"
    assert "GRAINCLIP_CACHE" in check.advice


@pytest.mark.parametrize(("free", "status"), [(0.5, "problem"), (5, "note"), (50, "ok")])
def test_disk(monkeypatch, tmp_path, free, status):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100 * 2**30, 0, int(free * 2**30)))
    check = doctoring.disk(tmp_path)
    assert (check.status, bool(check.advice)) == (status, status != "ok")
