"""Any model of timm as the image tower: its last feature map, position by position, in the joint space.

The image embedding is the projection of timm's own pooled feature. A position's feature is the projection of what
timm's head makes of a feature map that holds this position alone: pooling is then the identity, and what the head has
besides (a norm, a 1 x 1 convolution) is applied to each position. Where the head only averages, as in ResNet and
EfficientNet, the mean of the positions is the image embedding; attention pooling passes on the position's own value,
as in MaskCLIP (arXiv 2112.01071).

Running statistics (batch norm's) stay what the weights came with, in training too: a batch of crops, a small batch, a
rank's share of a batch and the replays of gradient caching all give the same features, and two ranks learn as one does.
Their scale and shift are trained. A tower of random weights has none to keep: its statistics are measured once, on
fixed noise, so that each layer starts with features of unit variance (as in LSUV, arXiv 1511.06422).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from datamodules.batching.image_transforms import Channels
from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.weights.timm_models import create

UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
NOISE_IMAGES = 8
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")  # that are one filter; timm also draws one at random


class Probe(NamedTuple):
    """A model's answer to one image.

    Args:
        side: of the square feature map in positions; 0 where there is none.
        width: channels of the head's features.
        operations: of the image's forward pass, with the head on each position and without.
        blocks: the names of the blocks, in the order in which they ran.
    """

    side: int
    width: int
    operations: tuple[float, float]
    blocks: list[str]


class TimmTower(nn.Module):
    """Images to N = 1 + P tokens in the joint space, not normalised: the image's, then the positions' row by row.

    Attributes:
        trunk: timm's model without its classifier.
        projection: to the joint space.
        image_mean, image_std, interpolation: the preparation of pixels that timm's weights are used to.

    Raises:
        ValueError: where timm has no such model or no weights for it, the weights are of another model, or the model
            cannot take images of ``image_size``.
        FileNotFoundError: where there is no such weights file, or the hub cannot be reached.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        assert config.image_tower is not None
        self.name = config.image_tower
        self.trunk: Any = create(self.name, config.image_weights)
        given: dict[str, Any] = self.trunk.pretrained_cfg
        self.image_mean: Channels = _channels(given["mean"])
        self.image_std: Channels = _channels(given["std"])
        self.interpolation: str = given["interpolation"] if given.get("interpolation") in INTERPOLATIONS else "bicubic"
        self.image_size: int = given["input_size"][-1]
        self._fit(config.image_size)
        if config.image_weights is None:
            measure_statistics(self.trunk, config.image_size)
        self.projection = nn.Linear(self.probe.width, config.embed_dim, bias=False)
        nn.init.normal_(self.projection.weight, std=self.probe.width**-0.5)
        self.train()  # modules are born in training mode, and nobody else calls it before the first step

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last feature map; 0 and 0 where the model gives no map."""
        return self.probe.side, self.probe.side

    def forward_flops(self, dense: bool = True) -> float:
        """Operations of an image's forward pass."""
        tokens = 1 + dense * self.probe.side**2
        return (
            self.probe.operations[not dense] + 2.0 * tokens * self.projection.in_features * self.projection.out_features
        )

    def forward(self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True) -> Float[Tensor, "B N D"]:
        """Tokens of normalised pixels; without ``dense`` the pooled one alone, N = 1."""
        return self.projection(self._features(pixels, dense))

    def _features(self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True) -> Float[Tensor, "B N C"]:
        # channels last: EfficientNet-Lite0 is then 1.4 to 3 times as fast on a CPU, the same numbers but for rounding
        features = self.trunk.forward_features(pixels.contiguous(memory_format=torch.channels_last))
        if not isinstance(features, Tensor):
            raise ValueError("it gives several feature maps, not a last one")
        pooled = self.trunk.forward_head(features)[:, None]
        if not dense:
            return pooled
        positions = self._positions(features)
        if positions is None:
            return pooled
        return torch.cat([pooled, self.trunk.forward_head(positions).unflatten(0, (pixels.shape[0], -1))], dim=1)

    def _positions(self, features: Tensor) -> Tensor | None:
        """Each position as a feature map of its own, row by row, B · P of them; None where there is no map."""
        if features.ndim == 4:
            if getattr(self.trunk, "output_fmt", "NCHW") == "NHWC":
                return features.flatten(0, 2)[:, None, None]
            return features.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
        prefix = getattr(self.trunk, "num_prefix_tokens", 0)
        positions = features[:, prefix:]
        if math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
            return None
        # a position also takes the places of class and register tokens: whichever the head pools, it finds this one
        return positions.flatten(0, 1)[:, None].expand(-1, prefix + 1, -1)

    @override
    def train(self, mode: bool = True) -> TimmTower:
        """Training or evaluation mode; layers with running statistics stay in evaluation mode."""
        super().train(mode)
        for module in self.trunk.modules():
            if _keeps_statistics(module):
                module.train(False)
        return self

    @property
    def blocks(self) -> list[nn.Module]:
        """The elements of the model's own sequences (stages, blocks), from the pixels up; none where it has none."""
        return [self.trunk.get_submodule(name) for name in self.probe.blocks]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them.

        timm's own switch also calls what is inside of stages, past their forward, where FSDP2 gathers their weights.
        """
        for block in self.blocks:
            vars(block).pop("forward", None)
            if enable:
                vars(block)["forward"] = partial(checkpoint, block.forward, use_reentrant=False)

    def with_grid(self, side: int) -> TimmTower:
        """The same tower on images of ``side`` by ``side`` positions; weights that need not be stretched are shared.

        Raises:
            ValueError: where the model cannot.
        """
        steps: Any = self.trunk.feature_info
        reduction = steps[-1]["reduction"] if isinstance(steps, list) else steps.reduction()[-1]
        larger = copy.deepcopy(self, {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())})
        larger._fit(self.image_size if side == self.probe.side else side * reduction)
        if larger.probe.side != side:
            raise ValueError(f"image_tower {self.name} has no feature map of {side} by {side} positions")
        return larger

    def check_format(self, format: str) -> None:
        """Raises ValueError where the format cannot hold this tower: transformers' CLIP knows none but its own, and
        open_clip makes timm's model by its name alone.
        """
        if format != "open_clip":
            raise ValueError(f"--format must be open_clip for a model with image_tower {self.name}, got {format}")
        default = self.trunk.pretrained_cfg["input_size"][-1]
        if hasattr(self.trunk, "set_input_size") and self.image_size != default:
            problem = f"with images of {default} pixels only, got {self.image_size}"
        elif self.trunk.num_features != self.probe.width:
            problem = f"without its head's hidden layer, of {self.probe.width} channels"
        else:
            return
        raise ValueError(f"open_clip can hold image_tower {self.name} {problem}: keep the checkpoint itself")

    def _fit(self, image_size: int) -> None:
        """Prepare the model for square images of so many pixels. Raises ValueError where it cannot take them."""
        before, self.image_size = self.image_size, image_size
        try:
            if image_size != before and hasattr(self.trunk, "set_input_size"):
                self.trunk.set_input_size(img_size=(image_size, image_size))
            elif image_size != before and self.trunk.pretrained_cfg.get("fixed_input_size"):
                raise ValueError(f"it takes {before} pixels only")
            self.probe = self._run_probe()
        except UNFIT as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
            raise ValueError(
                f"image_size must be one that image_tower {self.name} can take, got {image_size}: {reason}"
            ) from error

    def _run_probe(self) -> Probe:
        calls: list[str] = []
        hooks = [
            module.register_forward_pre_hook(partial(_note, calls, name)) for name, module in _elements(self.trunk)
        ]
        modes = {module: module.training for module in self.modules()}
        pixels = torch.zeros(1, 3, self.image_size, self.image_size, device=next(self.trunk.parameters()).device)
        try:
            with torch.enable_grad(), FlopCounterMode(display=False) as counter:  # it wants gradients of weights
                features = self.eval()._features(pixels.to(next(self.trunk.parameters()).dtype))
            times = Counter(calls)
            with torch.enable_grad(), FlopCounterMode(display=False) as pooled_counter:
                self._features(pixels.to(next(self.trunk.parameters()).dtype), dense=False)
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes.items():
                module.training = mode
        once = [name for name in times if times[name] == 1]
        operations = float(counter.get_total_flops()), float(pooled_counter.get_total_flops())
        return Probe(math.isqrt(features.shape[1] - 1), features.shape[2], operations, once)


def _note(calls: list[str], name: str, *_: object) -> None:
    calls.append(name)


def _channels(values: Any) -> Channels:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _keeps_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_var", None) is not None


def _elements(trunk: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the elements of a model's sequences, but for single layers."""
    for name, child in trunk.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            for number, element in child.named_children():
                if len(list(element.parameters())) > 2 and next(element.children(), None) is not None:
                    yield f"{name}.{number}", element


@torch.no_grad()
def measure_statistics(trunk: Any, image_size: int) -> None:
    """Set running statistics to those of fixed noise, coarse and fine, in one pass. Weights without numbers (on the
    device "meta") are left alone, and so is PyTorch's random state.
    """
    layers = [module for module in trunk.modules() if _keeps_statistics(module)]
    device = next(trunk.parameters()).device
    if not layers or device.type == "meta":
        return
    generator = torch.Generator().manual_seed(0)
    shapes = [(NOISE_IMAGES, 3, side, side) for side in (image_size, 8)]
    fine, coarse = (torch.randn(shape, generator=generator, device="cpu") for shape in shapes)
    noise = (fine + functional.interpolate(coarse, fine.shape[-2:], mode="bilinear")) / math.sqrt(2)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches: of this one
        layer.train()
    trunk.forward_head(trunk.forward_features(noise.to(device)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
