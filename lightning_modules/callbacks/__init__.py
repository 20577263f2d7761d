"""Callbacks: checkpoints, what is counted while training runs, benchmarks, images, and the table at its end."""

from lightning_modules.callbacks.average_weights import AverageWeights
from lightning_modules.callbacks.benchmarks import Benchmarks
from lightning_modules.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_modules.callbacks.compile_blocks import CompileBlocks
from lightning_modules.callbacks.console import ConsoleLogger
from lightning_modules.callbacks.diagnostics import Diagnostics
from lightning_modules.callbacks.images import SampleImages
from lightning_modules.callbacks.preemption import Preemption
from lightning_modules.callbacks.rank_consistency import RankConsistency
from lightning_modules.callbacks.results import ResultTable
from lightning_modules.callbacks.throughput import DataMonitor, RateMonitor, Throughput

__all__ = [
    "AverageWeights",
    "Benchmarks",
    "BestCheckpoint",
    "CompileBlocks",
    "ConsoleLogger",
    "DataMonitor",
    "Diagnostics",
    "LastCheckpoint",
    "Preemption",
    "RankConsistency",
    "RateMonitor",
    "ResultTable",
    "SampleImages",
    "Throughput",
]
