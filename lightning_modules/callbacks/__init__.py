"""Callbacks: checkpoints, what is counted while training runs, benchmarks, pictures, and the table at its end."""

from lightning_modules.callbacks.agreement import Agreement
from lightning_modules.callbacks.average_weights import AverageWeights
from lightning_modules.callbacks.benchmarks import Benchmarks
from lightning_modules.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_modules.callbacks.compile_blocks import CompileBlocks
from lightning_modules.callbacks.diagnostics import Diagnostics
from lightning_modules.callbacks.lines import LogLines
from lightning_modules.callbacks.monitors import DataMonitor, RateMonitor, Throughput
from lightning_modules.callbacks.pictures import Pictures
from lightning_modules.callbacks.preemption import Preemption
from lightning_modules.callbacks.results import ResultTable

__all__ = [
    "Agreement",
    "AverageWeights",
    "Benchmarks",
    "BestCheckpoint",
    "CompileBlocks",
    "DataMonitor",
    "Diagnostics",
    "LastCheckpoint",
    "LogLines",
    "Pictures",
    "Preemption",
    "RateMonitor",
    "ResultTable",
    "Throughput",
]
