"""The public names, listed here on purpose, so that a name comes or goes only when somebody means it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from lightning_modules import METHODS

ROOT = Path(__file__).resolve().parents[1]
BESIDE_METHODS = (
    *("CropTarget", "Features", "ImageTarget", "LoadedModel", "Method", "OptimConfig", "PhraseTarget", "RegionTarget"),
    "load_model",
)
SURFACE = {
    "losses": "BetaCalLoss ClimLoss ClipLoss GlobalRegionLoss LexemeRegionLoss "
    "MultiPositiveClipLoss PatchWeighting SigmoidLoss SoftmaxWeights SparseWeights "
    "SubcaptionLoss TopWeights WordPatchLoss",
    "datamodules": "Batch CenterCrop Choice DataError Grain GrainSampling GranularityData PairError PairReading Phrase "
    "RaggedTexts RandomCrop Region Sample SampleError SceneSet ShardError "
    "SkipPolicy Squash TextSlots Tokenizer",
    "datamodules.scenes": "ScenesShards ensure_shards sample",
    "eval": "BoxAccuracy HardNegatives Ranks Retrieval Ties markdown rank_embeddings "
    "rank_matrix recall_at_k rerank slot_rows table write_json",
    "lightning_modules": " ".join(sorted([*METHODS, *BESIDE_METHODS])),
    "lightning_modules.callbacks": "AverageWeights Benchmarks BestCheckpoint CompileBlocks ConsoleLogger "
    "DataMonitor Diagnostics LastCheckpoint Preemption RankConsistency RateMonitor "
    "ResultTable SampleImages Throughput",
    "lightning_modules.networks": "Calibrated DualEncoder Encoder EncoderConfig ImageFeatures OpenClipConfig "
    "OpenClipEncoder PositionTable SiglipEncoder SiglipSettings TextConditionedPooling TextFeatures TokenCalibration "
    "build_encoder load_encoder pool_regions stretch_positions vit_b_16 vit_l_14",
}


@pytest.mark.parametrize("package", SURFACE)
def test_the_surface_is_what_is_listed(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == SURFACE[package].split()
    for name in module.__all__:
        found = getattr(module, name)
        assert inspect.getdoc(found), f"{package}.{name} says nothing of itself"


@pytest.mark.parametrize("package", SURFACE)
def test_public_methods_say_what_they_do(package):
    module, silent = importlib.import_module(package), []
    for found in (getattr(module, name) for name in module.__all__):
        own = vars(found).items() if inspect.isclass(found) else ()
        silent += [
            f"{found.__name__}.{name}"
            for name, method in own
            if inspect.isfunction(method) and not name.startswith("_") and not inspect.getdoc(getattr(found, name))
        ]
    assert not silent


@pytest.mark.parametrize("package", ["losses", "datamodules", "eval", "lightning_modules"])
def test_tab_completion_shows_the_surface(package):
    assert dir(importlib.import_module(package)) == SURFACE[package].split()


def untyped(found: object) -> list[str]:
    """The public functions of a name that lack the type of an argument or of what they return."""
    if inspect.isfunction(found):
        functions = {found.__name__: found}
    else:
        own = vars(found) if inspect.isclass(found) else {}
        functions = {n: f for n, f in own.items() if inspect.isfunction(f) and (n[0] != "_" or n == "__init__")}
    wrong = []
    for name, function in functions.items():
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "_cls")]
        typed = all(p.annotation is not p.empty for p in parameters)
        returns = name == "__init__" or "return" in function.__annotations__
        wrong += [] if typed and returns else [name]
    return wrong


@pytest.mark.parametrize("package", SURFACE)
def test_public_names_are_typed(package):
    module = importlib.import_module(package)
    assert not {name: wrong for name in module.__all__ if (wrong := untyped(getattr(module, name)))}
    assert (ROOT / package.partition(".")[0] / "py.typed").is_file()


def test_what_is_not_typed_is_found():
    def half(a: int, b) -> int:
        return a

    assert untyped(half) == ["half"]
    assert untyped(type("A", (), {"f": lambda self: 1, "_g": half})) == ["f"]
