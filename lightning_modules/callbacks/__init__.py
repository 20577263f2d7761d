"""Callbacks: checkpoints, what is counted while training runs, benchmarks, pictures, and the table at its end."""

from lightning_modules.callbacks.benchmarks import Benchmarks
from lightning_modules.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_modules.callbacks.diagnostics import Diagnostics
from lightning_modules.callbacks.monitors import DataMonitor, RateMonitor, Throughput
from lightning_modules.callbacks.pictures import Pictures
from lightning_modules.callbacks.results import ResultTable

__all__ = [
    "Benchmarks",
    "BestCheckpoint",
    "DataMonitor",
    "Diagnostics",
    "LastCheckpoint",
    "Pictures",
    "RateMonitor",
    "ResultTable",
    "Throughput",
]
