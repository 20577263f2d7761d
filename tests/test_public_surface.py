"""The public names, listed here on purpose, so that a name comes or goes only when somebody means it."""

from __future__ import annotations

import importlib
import inspect

import pytest

from lightning_modules import METHODS

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
    "rank_matrix recall_at_k slot_rows table write_json",
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
