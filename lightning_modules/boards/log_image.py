"""Any logger that has ``log_image``, called as that of Lightning's ``WandbLogger``: it shows images, and numbers."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from lightning_modules.boards.board import Board, decoded


class LogImageBoard(Board):
    """A logger with ``log_image(key, images, step)``."""

    kinds = frozenset({"images"})

    @override
    def image(self, tag: str, png: bytes, step: int) -> None:
        run_logger: Any = self.logger
        run_logger.log_image(key=tag, images=[decoded(png)], step=step)
