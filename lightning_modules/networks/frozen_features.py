"""Features of the frozen first blocks of an image tower, kept from one pass over the data to the next.

They never change, and on a small machine they are most of a training step (LiT, arXiv 2111.07991, stores them
beforehand). Here they are kept in memory as they come, by the image's own pixels: right for any data and any
augmentation, and of use where the same pixels come again: without random crops, or with a few that come again.

The rest of the tower runs inside its own forward: the layer that takes the pixels is given one image of the batch, and
where the frozen blocks end, the kept features of all of them come in place of that one's. So of a family only the
blocks need be known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_modules.networks.contract import Encoder, ImageFeatures

GIB = 2**30
ROUNDING = 1e-3  # of features that the same operations give, most of them on the same numbers
CPU_PART = 32  # images at once: what lies between two layers then fits a CPU's cache


class FrozenFeatures:
    """An encoder's ``encode_image`` that computes the frozen first blocks once for each image.

    Args:
        encoder: whose image embeddings and first block, at least, are frozen.
        gib: memory that the features may take, in GiB on the device of the model. When it is full, further images are
            computed each time.

    Attributes:
        asked, found: images so far, and those among them whose features were kept.

    Raises:
        ValueError: where nothing is frozen from the pixels up to the end of a block, or the blocks are not known.
    """

    def __init__(self, encoder: Encoder, gib: float) -> None:
        blocks = encoder.image_blocks()
        if not blocks:
            raise ValueError(
                "freeze.feature_cache_gib must be 0: the image tower's blocks are not known, so what is frozen has no "
                f"known end, got {gib:g}"
            )
        frozen = list(takewhile(_is_frozen, blocks))
        if not frozen or any(parameter.requires_grad for parameter in encoder.image_embeddings()):
            raise ValueError(
                "freeze.feature_cache_gib must be 0 where the image tower's first block is trained: there is nothing "
                f"to keep (freeze.image_tower 1 or more, or all), got {gib:g}"
            )
        self.encoder, self.asked, self.found = encoder, 0, 0
        self._last = frozen[-1]
        self._parameters = [*encoder.image_embeddings(), *(p for block in frozen for p in block.parameters())]
        self._room, self._kept = int(gib * GIB), dict[bytes, Tensor]()
        self._first: list[nn.Module] = []  # the layer that takes the pixels, once it is known
        self._two_kinds = True  # a last block that is frozen too may leave patch features out
        self._checked: set[bool] = set()  # modes of the tower, training or not, in which its frozen blocks repeat
        self._kind: tuple[object, ...] = ()  # device and precision that the kept features were computed in

    def clear(self) -> None:
        """Forget all features: other weights have been loaded, or they would come in another precision."""
        self._room += sum(_size(row) for row in self._kept.values())
        self._kept.clear()

    def __call__(self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True) -> ImageFeatures:
        """As ``encoder.encode_image``.

        Raises:
            ValueError: where the frozen blocks give other features beside other images (batch norm in training mode)
                or than in evaluation mode (dropout), are compiled, give no row for each image, have trained parts
                between them, or are not all that the rest of the tower reads.
        """
        if not len(pixels) or any(parameter.requires_grad for parameter in self._parameters):  # trained from now on
            return self.encoder.encode_image(pixels, dense)
        if self.encoder.image_tower.training not in self._checked:
            self._check(pixels[:1])
        if (kind := self._kind_of(pixels)) != self._kind:
            self.clear()
            self._kind = kind
        keys = [self._key(row, dense) for row in pixels.detach().cpu().contiguous()]
        rows = {key: self._kept[key] for key in keys if key in self._kept}
        self.asked, self.found = self.asked + len(keys), self.found + sum(key in rows for key in keys)
        places = {key: place for place, key in enumerate(keys) if key not in rows}
        if places:
            asked = pixels[list(places.values())]
            parts = asked.split(CPU_PART if asked.device.type == "cpu" else len(asked))
            with torch.no_grad():
                computed = [row for part in parts for row in self._frozen_part(part, dense)]
            for key, row in zip(places, computed, strict=True):
                rows[key] = self._keep(key, row)
        return self._trained_part(torch.stack([rows[key] for key in keys]), pixels, dense)

    def _kind_of(self, pixels: Tensor) -> tuple[object, ...]:
        device = pixels.device
        autocast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        return device, self._parameters[0].dtype, *autocast

    def _trained_part(self, features: Tensor, pixels: Float[Tensor, "B 3 H W"], dense: bool) -> ImageFeatures:
        """The rest of the tower on the frozen blocks' features; of those blocks but one image runs."""
        with ExitStack() as hooks:
            for layer in self._first:
                hooks.enter_context(_hook(layer.register_forward_pre_hook(lambda *given: given[1][0][:1])))
            hooks.enter_context(_hook(self._last.register_forward_hook(lambda *_: features)))
            return self.encoder.encode_image(pixels, dense)

    def _keep(self, key: bytes, row: Tensor) -> Tensor:
        if _size(row) <= self._room:
            self._kept[key] = row = row.clone()  # of a batch's features a view would keep them all
            self._room -= _size(row)
        return row

    def _frozen_part(self, pixels: Float[Tensor, "B 3 H W"], dense: bool) -> Tensor:
        """The output of the last frozen block; the blocks behind it do not run."""
        found: list[Tensor] = []

        def stop(*given: Any) -> None:
            found.append(given[-1])
            raise _ReachedError

        with _hook(self._last.register_forward_hook(stop)), suppress(_ReachedError):
            self.encoder.encode_image(pixels, dense)
        if not found or not isinstance(found[0], Tensor) or len(found[0]) != len(pixels):
            raise ValueError("freeze.feature_cache_gib must be 0: the image tower's blocks give no row for each image")
        return found[0]

    def _check(self, pixels: Float[Tensor, "1 3 H W"]) -> None:
        if getattr(self._last, "_compiled_call_impl", None) is not None:
            raise ValueError("freeze.feature_cache_gib must be 0 where blocks are compiled")
        with torch.no_grad(), _attention_of_training():
            self._check_modes(pixels)
            with _evaluation_mode(self.encoder.image_tower):
                self._find_kinds_and_first(pixels)
                self._check_rest(torch.cat([pixels, pixels + 1]))
        with torch.inference_mode(False), torch.enable_grad():
            if self._frozen_part(pixels.clone(), True).requires_grad:
                raise ValueError(
                    "freeze.feature_cache_gib must be 0: parts of the image tower that are trained run before the last "
                    "of its frozen blocks ends"
                )
        self._checked.add(self.encoder.image_tower.training)  # dropout draws in training alone

    def _check_modes(self, pixels: Float[Tensor, "1 3 H W"]) -> None:
        """In the tower's mode an image has the same features beside any other, and the same as in evaluation mode."""
        tower = self.encoder.image_tower
        with _evaluation_mode(tower, but_statistics=True):
            alone = self._frozen_part(pixels, True)
            beside_another = self._frozen_part(torch.cat([pixels, torch.zeros_like(pixels)]), True)[:1]
        if (beside_another - alone).norm() > 0.1 * alone.norm():  # far more than rounding, in bfloat16 too
            raise ValueError(
                "freeze.feature_cache_gib must be 0: the frozen blocks give an image other features beside other "
                "images (batch norm in training mode)"
            )
        drawn = self._frozen_part(pixels, True)
        with _evaluation_mode(tower):
            if not torch.equal(drawn, self._frozen_part(pixels, True)):
                raise ValueError("freeze.feature_cache_gib must be 0: the frozen blocks draw at random (dropout)")

    def _find_kinds_and_first(self, pixels: Float[Tensor, "1 3 H W"]) -> None:
        takers: list[nn.Module] = []
        with ExitStack() as hooks:
            for layer in self.encoder.image_tower.modules():
                hooks.enter_context(_hook(layer.register_forward_pre_hook(partial(_note, takers, pixels.shape))))
            whole = self._frozen_part(pixels, True)
        without = self._frozen_part(pixels, False)
        self._two_kinds = not (without.shape == whole.shape and torch.equal(without, whole))
        self._first = takers[-1:]  # the innermost

    def _check_rest(self, pixels: Float[Tensor, "2 3 H W"]) -> None:
        """The rest of the tower reads the last frozen block alone: with its features of both images, and all else of
        the first, it gives what the whole tower gives.
        """
        for dense in (True, False):
            whole = self.encoder.encode_image(pixels, dense)
            found = self._trained_part(self._frozen_part(pixels, dense), pixels, dense)
            for ours, theirs in zip(found, whole, strict=True):
                if ours.shape != theirs.shape or (ours - theirs).norm() > ROUNDING * theirs.norm():
                    raise ValueError(
                        "freeze.feature_cache_gib must be 0: the rest of the image tower reads more than the last of "
                        "its frozen blocks (blocks that run in parallel)"
                    )

    def _key(self, pixels: Float[Tensor, "3 H W"], dense: bool) -> bytes:
        content = pixels.view(torch.uint8).numpy().tobytes()
        return hashlib.blake2b(content, digest_size=16, key=bytes([dense or not self._two_kinds])).digest()


class _ReachedError(Exception):
    """The frozen blocks have ended."""


@contextmanager
def _hook(handle: RemovableHandle) -> Iterator[None]:
    """A hook that goes again."""
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _attention_of_training() -> Iterator[None]:
    """Without the fast path of torch's attention, which rounds otherwise and is taken in evaluation mode alone."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _evaluation_mode(tower: nn.Module, but_statistics: bool = False) -> Iterator[None]:
    """The tower in evaluation mode, but for layers with running statistics where asked; afterwards each of its modules
    is in its own mode again.
    """
    modes = {module: module.training for module in tower.modules()}
    tower.eval()
    try:
        for module, mode in modes.items():
            if but_statistics and hasattr(module, "running_var"):
                module.training = mode
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _note(takers: list[nn.Module], shape: torch.Size, *called: Any) -> None:
    layer, given = called
    if given and isinstance(given[0], Tensor) and given[0].shape == shape:
        takers.append(layer)


def _is_frozen(block: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in block.parameters())


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
