import pytest
import torch

from lightning_modules.cli.precision import best_precision


def hardware(monkeypatch, cuda=None, cpu=()):
    """Pretend to be a machine: ``cuda`` is None for no device, else whether it has bf16; ``cpu`` its capabilities."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: cuda or including_emulation)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))


@pytest.mark.parametrize(
    ("cuda", "cpu", "auto", "on_cpu"),
    [
        (None, (), "32-true", "32-true"),
        (None, ("avx2", "avx512_f"), "32-true", "32-true"),
        (None, ("avx512_f", "avx512_bf16"), "bf16-mixed", "bf16-mixed"),
        (None, ("amx_tile", "amx_bf16"), "bf16-mixed", "bf16-mixed"),
        (True, ("avx2",), "bf16-mixed", "32-true"),  # a new GPU beside an old CPU
        (False, ("avx512_bf16",), "32-true", "bf16-mixed"),  # an old GPU, which would emulate, beside a new CPU
    ],
)
def test_bf16_only_where_the_hardware_has_it(monkeypatch, cuda, cpu, auto, on_cpu):
    hardware(monkeypatch, cuda, cpu)
    assert best_precision() == auto
    assert best_precision("cpu") == on_cpu
    if cuda is not None:
        assert best_precision("gpu") == best_precision("cuda") == auto


def test_other_accelerators_train_in_fp32(monkeypatch):
    hardware(monkeypatch, cuda=True, cpu=("avx512_bf16",))
    assert best_precision("mps") == "32-true"


def test_this_machine():
    assert best_precision() in ("32-true", "bf16-mixed")
