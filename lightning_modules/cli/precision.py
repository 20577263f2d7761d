"""The fastest precision that the hardware runs natively: bf16 where it is in silicon, fp32 everywhere else.

bf16 keeps fp32's range, so it needs no loss scaling. Where the hardware lacks it, it is emulated: on a CPU without
AVX512-BF16 or AMX a bf16 matrix product takes about 100 times as long as an fp32 one.
"""

from __future__ import annotations

import torch

X86_BF16 = ("avx512_bf16", "amx_bf16")


def cuda_has_bf16() -> bool:
    """True if the current CUDA device multiplies bf16 matrices in hardware (NVIDIA: compute capability 8.0 and up)."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def cpu_has_bf16() -> bool:
    """True if this CPU multiplies bf16 matrices in hardware (AVX512-BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in X86_BF16)


def best_precision(accelerator: str = "auto") -> str:
    """The Trainer's ``precision``: ``"bf16-mixed"`` where ``accelerator`` has bf16 in hardware, else ``"32-true"``.

    ``"auto"`` means a CUDA device where there is one, else the CPU. Apple's and other accelerators get fp32.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator in ("cuda", "gpu"):
        return "bf16-mixed" if cuda_has_bf16() else "32-true"
    if accelerator == "cpu":
        return "bf16-mixed" if cpu_has_bf16() else "32-true"
    return "32-true"
