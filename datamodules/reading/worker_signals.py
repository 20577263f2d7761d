"""Loader workers that ignore a signal to the whole job.

Slurm signals every process of a job, and Ctrl-C every process of a terminal. The training process then wants to finish
its step and save; PyTorch's workers would end at once, and training with them, by an error. So a worker takes SIGTERM
from its own parent only, which is how PyTorch ends it, and ignores the warning signals. PyTorch's own check still ends
it when its parent is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def ignore_job_signals(worker: int) -> None:
    """Use as ``worker_init_fn``. Does nothing where the system does not report the sender of a signal."""
    del worker
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):
        return
    for warning in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(warning, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_with_parent, args=(parent.pid,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
