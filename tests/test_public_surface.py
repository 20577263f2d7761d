"""What users may import: listed here on purpose, so that a name comes or goes only when somebody means it."""

from __future__ import annotations

import importlib
import inspect

import pytest

SURFACE = {
    "losses": "Aggregation BetaCalLoss ClimLoss ClipLoss GlobalRegionLoss LexemeRegionLoss MultiPositiveClipLoss "
    "SoftmaxWeights SparseWeights SubcaptionLoss TopWeights WordPatchLoss",
    "datamodules": "Batch CenterCrop Choice DataError Grain GrainSampling GranularityData Phrase RandomCrop Region "
    "Sample SampleError SceneSet ShardError SkipPolicy Slots Squash Texts Tokenizer",
    "datamodules.scenes": "ScenesShards ensure_shards sample",
    "eval": "BoxAccuracy HardNegatives Ranks Retrieval Ties markdown rank_embeddings rank_matrix recall_at_k slot_rows "
    "table write_json",
    "lightning_modules": "BetaClip ClipFinetune CropTarget Features HarmoClip ImageTarget Method MulClip "
    "MultiPositiveClip OptimConfig PhraseTarget RegionTarget",
    "lightning_modules.callbacks": "Agreement AverageWeights Benchmarks BestCheckpoint CompileBlocks DataMonitor "
    "Diagnostics LastCheckpoint LogLines Pictures Preemption RateMonitor ResultTable Throughput",
    "lightning_modules.networks": "Calibrated DualEncoder EncoderConfig ImageFeatures PositionTable "
    "TextConditionedPooling TextFeatures TokenCalibration pool_regions stretch_positions vit_b_16 vit_l_14 with_grid",
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
