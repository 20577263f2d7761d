"""Embeddings of images and texts on their first two principal axes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from eval.drawing.canvas import COLOURS, HEADING, add_axes, canvas, heading

MARKS = "so^xD+"


def plane_figure(groups: Mapping[str, Float[Tensor, "_ D"]], title: str) -> Figure:
    """The groups by colour and mark, on the first two principal axes of all groups together."""
    rows = torch.cat([group.double().cpu() for group in groups.values()])
    centred = rows - rows.mean(0)
    _, size, axes = torch.linalg.svd(centred, full_matrices=False)
    share = (size.square() / size.square().sum().clamp(min=1e-12)).tolist()
    points = (centred @ axes[:2].T).split([len(group) for group in groups.values()])
    with canvas(5.6, 5.0) as figure:
        heading(figure, title)
        ax = add_axes(figure, 0.75, HEADING, 4.7, 3.6)
        for number, (name, xy) in enumerate(zip(groups, points, strict=True)):
            ax.scatter(
                *xy.T.numpy(), s=16, c=COLOURS[number], marker=MARKS[number], alpha=0.75, label=name, linewidths=1
            )
        ax.set_xlabel(f"first axis, {100 * share[0]:.0f} % of the variance")
        ax.set_ylabel(f"second axis, {100 * share[1]:.0f} %" if len(share) > 1 else "")
        figure.legend(loc="lower center", ncols=len(groups), frameon=False, handletextpad=0.2)
    return figure
