"""A device that is not there: tensors that say ``cuda`` and refuse to meet tensors of the CPU, and a count of how often
the host waits for them.

A GPU works behind the host, which only hands it work. Whoever reads a number back, or needs one to know how large a
result is (``nonzero``, a boolean index), waits until the GPU has caught up; so does a copy from memory that is not
pinned. Each such place is counted, with the line of our code that it stands in.

Arithmetic is that of the CPU: every tensor of the device holds one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_map
from typing_extensions import override

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("datamodules", "eval", "lightning_modules", "losses")
DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten
GROUPING = _group_tensors_by_device_and_dtype.__name__
READS = {  # what a GPU answers only after the host has waited
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten._unique, aten.unique_dim,
    aten.unique_consecutive, aten.unique_dim_consecutive, aten.equal, aten.is_nonzero, aten.bincount,
}  # fmt: skip
FACTORIES = {
    torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.eye, torch.rand, torch.randn, torch.randint,
    torch.linspace, torch.scalar_tensor, torch.randperm,
}  # fmt: skip
DATA = {torch.tensor, torch.as_tensor}


class DeviceTensor(Tensor):
    """A tensor of the simulated device; ``held`` has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        tensor = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
        )  # fmt: skip
        tensor.held = held.detach()
        return tensor

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The simulated one. PyTorch's own code, below Python, sees a tensor of the CPU."""
        return DEVICE

    is_cuda, is_cpu = True, False  # pyright: ignore[reportAssignmentType]

    @override
    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        _count(func, packet, args, kwargs)
        if packet not in (aten.copy_, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            _refuse_mixture(func, args, kwargs)
        kwargs.pop("pin_memory", None)
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if packet is aten.copy_ and not isinstance(args[0], DeviceTensor):
            return args[0]
        wrapped = tree_map(lambda x: DeviceTensor(x) if isinstance(x, Tensor) else x, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


class _Log:
    """The places where the host waited, while somebody listens."""

    def __init__(self) -> None:
        self.places: Counter[str] | None = None

    def add(self, what: str) -> None:
        if self.places is not None:
            self.places[f"{_caller()}: {what}"] += 1


_LOG = _Log()


def _caller() -> str:
    """The innermost line of the project's packages, or else of whichever library asked."""
    frame, first = sys._getframe(2), None
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file != Path(__file__) and "site-packages/torch/" not in str(file):
            name = f"{file}:{frame.f_lineno}"
            if file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in PACKAGES:
                return str(file.relative_to(ROOT)) + f":{frame.f_lineno}"
            first = first or name.rpartition("site-packages/")[2].removeprefix(f"{ROOT}/")
        frame = frame.f_back
    return first or "?"


def _held(x: Any) -> Any:
    return x.held if isinstance(x, DeviceTensor) else x


def _flat(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (list, tuple)):
        for part in x:
            yield from _flat(part)
    elif isinstance(x, dict):
        yield from _flat(list(x.values()))


def _refuse_mixture(func: Any, args: tuple, kwargs: dict) -> None:
    for tensor in _flat([args, kwargs]):
        if not isinstance(tensor, DeviceTensor) and tensor.dim() > 0:
            raise RuntimeError(f"expected all tensors to be on the same device, {func} got one of the CPU")


def _is_pinned(tensor: Tensor) -> bool:
    return getattr(tensor, "simulated_pin", False)


def _count(func: Any, packet: Any, args: tuple, kwargs: dict) -> None:
    name = packet.__name__
    if packet in READS:
        _LOG.add(name)
    elif packet is aten.copy_ and not (isinstance(args[0], DeviceTensor) and isinstance(args[1], DeviceTensor)):
        if args[1].dim() or not isinstance(args[0], DeviceTensor):
            blocking = not (args[2:] or [kwargs.get("non_blocking", False)])[0]
            if not isinstance(args[0], DeviceTensor) or blocking or not _is_pinned(args[1]):
                _LOG.add("copy")
    elif packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        for index in args[1]:
            if index is None:
                continue
            if not isinstance(index, DeviceTensor):
                _LOG.add(f"{name} by an index of the CPU")
            elif index.dtype in (torch.bool, torch.uint8):
                _LOG.add(f"{name} by a mask")
    elif (
        func in (aten.repeat_interleave.Tensor, aten.repeat_interleave.self_Tensor)
        and kwargs.get("output_size") is None
    ):
        _LOG.add("repeat_interleave without output_size")


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class _Entrances(TorchFunctionMode):
    """What makes tensors of the device, and what would ask a real one."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTORIES and _is_device(kwargs.get("device")):
            return DeviceTensor(func(*args, **{**kwargs, "device": "cpu"}))
        if func in DATA and (_is_device(kwargs.get("device")) or (args and isinstance(args[0], DeviceTensor))):
            if args and isinstance(args[0], DeviceTensor):
                return args[0].to(dtype=kwargs.get("dtype") or args[0].dtype)
            _LOG.add("tensor of the host's numbers")
            return DeviceTensor(func(*args, **{**kwargs, "device": "cpu"}))
        if func is Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            _LOG.add("tensor of the host's numbers")
            return DeviceTensor(torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)))
        if func is Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.simulated_pin = True
            return pinned
        if func is Tensor.is_pinned:
            return _is_pinned(args[0])
        if func in (Tensor.to, Tensor.cuda):
            return self._moved(func, args, kwargs)
        if func in (Tensor.cpu, Tensor.tolist) and isinstance(args[0], DeviceTensor):
            _LOG.add("copy to the host")
            return func(args[0].held.clone())
        if func is Tensor.numpy and isinstance(args[0], DeviceTensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return func(*args, **kwargs)

    def _moved(self, func: Any, args: tuple, kwargs: dict) -> Any:
        tensor, *rest = args
        device = DEVICE if func is Tensor.cuda else kwargs.pop("device", None)
        if rest and isinstance(rest[0], (str, torch.device)):
            device = rest.pop(0)
        if not _is_device(device):
            if device is not None and isinstance(tensor, DeviceTensor):
                _LOG.add("copy to the host")
                tensor = tensor.held.clone()
            return func(tensor, *(() if device is None else (device,)), *rest, **kwargs)
        dtype = kwargs.pop("dtype", None) or next((x for x in rest if isinstance(x, torch.dtype)), tensor.dtype)
        does_not_block = kwargs.pop("non_blocking", False) or next((x for x in rest if isinstance(x, bool)), False)
        if isinstance(tensor, DeviceTensor):
            return tensor if dtype == tensor.dtype else Tensor.to(tensor, dtype)
        if tensor.dim() and not (does_not_block and _is_pinned(tensor)):
            _LOG.add("copy to the device")
        return DeviceTensor(tensor.detach().to(dtype, copy=True))


def _group(tensors: Any, with_indices: bool = False) -> Any:
    """PyTorch's own, which looks below Python, with the device that tensors say they are on."""
    groups = _group_tensors_by_device_and_dtype(tensors, with_indices)
    return {(next(_flat(group[0])).device, dtype): group for (_, dtype), group in groups.items()}


def _run_backward(*args: Any, **kwargs: Any) -> Any:
    """PyTorch's own, in which checkpointed functions run again: they make tensors of the device, too."""
    with _Entrances():
        return _engine_run_backward(*args, **kwargs)


@contextmanager
def simulated_device() -> Iterator[None]:
    """Inside, ``cuda`` is the simulated device."""
    replaced = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter cannot become another class in place
    try:
        with (
            _Entrances(),
            patch(f"torch.nn.utils.clip_grad.{GROUPING}", _group),
            patch.object(import_module("torch.optim.optimizer"), GROUPING, _group),  # Python 3.10 finds it by no name
            patch("torch.autograd._engine_run_backward", _run_backward),
            patch("torch.utils.checkpoint._infer_device_type", lambda *_: "cpu"),  # whose random state it replays
        ):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaced)


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """The places where the host waits for the device meanwhile, each with how often."""
    before, places = _LOG.places, Counter[str]()
    _LOG.places = places
    try:
        yield places
    finally:
        _LOG.places = before
