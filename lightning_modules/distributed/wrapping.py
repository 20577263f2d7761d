"""FSDP2: every rank keeps a slice of the weights, their gradients and the optimiser's state.

Each transformer block of both towers is one unit: gathered when it runs, put back into slices after. What is left of a
tower (embeddings, final norm, projection) is a unit around them, and so is every other module with parameters: pooling
block, calibration, temperatures, a loss with a bias. So a tower may run as often as a step likes (captions, crops, the
replays of gradient caching), and losses may ask for a temperature outside of any tower. Weights are always put back
after a pass, also by the outermost unit (PyTorch keeps that one whole until the backward pass): a pass without a
backward one would leave a copy that the next step of the optimiser does not reach.

Each pass of a tower gathers its weights, so all ranks must run it equally often (`calls_on_all_ranks`).

Weights are gathered in the precision they are kept in and autocast does the rest, as under DDP: the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lightning_modules.networks import Encoder
from lightning_modules.networks.temperature import LogitBias, Temperature

ALONE = (Temperature, LogitBias)
OTHER_ENTRANCES = ("attention",)  # methods that use a module's weights without going through its forward


def shard(method: nn.Module, mesh: DeviceMesh) -> None:
    """Slice all parameters of ``method`` over the ranks of a one-dimensional ``mesh``, after rank 0's weights have gone
    to all of them.

    Raises:
        ValueError: where a parameter stands outside of all submodules.
    """
    stray = [name for name, _ in method.named_parameters(recurse=False)]
    if stray:
        raise ValueError(f"a method's parameters must stand in submodules to be sharded, got {', '.join(stray)}")
    for tensor in (*method.parameters(), *method.buffers()):
        dist.broadcast(tensor.data, group=mesh.get_group(), group_src=0)
    in_encoders = {module for child in method.children() if isinstance(child, Encoder) for module in child.modules()}
    for unit in units(method):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        for name in OTHER_ENTRANCES:
            if hasattr(unit, name) and unit not in in_encoders:  # blocks of a tower are entered by forward alone
                register_fsdp_forward_method(unit, name)


def units(method: nn.Module) -> Iterator[nn.Module]:
    """The modules that are gathered by themselves, inner ones first."""
    yield from (module for module in method.modules() if isinstance(module, ALONE))
    for child in method.children():
        if isinstance(child, Encoder):
            yield from child.blocks()
            yield from (child.image_tower, child.text_tower)
        elif next(child.parameters(), None) is not None and not isinstance(child, ALONE):
            yield child


def calls_on_all_ranks(encoder: nn.Module, calls: int) -> int:
    """The number of times that every rank must run a tower where this rank needs ``calls``: the largest of all ranks.

    Whole weights are not gathered: there it is this rank's own number. Collective under FSDP2.
    """
    if next(sharded(encoder), None) is None:
        return calls
    most = torch.full((1,), calls, device=next(encoder.parameters()).device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def sharded(method: nn.Module) -> Iterator[FSDPModule]:
    """The units of a method that has been sharded."""
    return (module for module in method.modules() if isinstance(module, FSDPModule))


def local_shard(weight: Tensor) -> Tensor:
    """This rank's slice of a weight; without FSDP2 the whole weight."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
