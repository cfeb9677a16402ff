"""Pictures of any size, all windows at once: one canvas, the prior in windows, the data on the whole.

At every noise level the network speaks of every window, the predictions are averaged where windows overlap, and the
whole clean estimate is corrected with the true operator of the whole picture. So any operator and any method works, and
the result is as consistent with the data as that of a network of this size would be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.grid import Grid
from ..core.process import Process
from ..core.run import Denoiser
from .inset import inset
from .method import Cost, PosteriorMethod
from .operators.base import Operator
from .operators.foreign import as_operator
from .problem import Problem
from .run import PosteriorResult, run_posterior, sample_shape
from .tiled_prior import WindowedDenoiser
from .windows import Windows


@dataclass(frozen=True)
class Laid:
    """A problem on the smallest canvas of whole windows.

    Attributes:
        operator: A, for the canvas.
        size: (H, W) of the picture, the top left part of the canvas.
        shape: (C, H', W') of the canvas.
        windows: on it.
    """

    operator: Operator
    size: tuple[int, int]
    shape: tuple[int, int, int]
    windows: Windows

    def cropped(self, x: torch.Tensor) -> torch.Tensor:
        """The picture of a canvas."""
        return x[..., : self.size[0], : self.size[1]]

    def fits(self, start: torch.Tensor | None) -> torch.Tensor | None:
        """A warm start, which must have the size of the canvas."""
        if start is not None and tuple(start.shape[1:]) != self.shape:
            raise ValueError(
                f"the start must have the shape {self.shape} of the canvas (the picture and what is missing to whole "
                f"windows), got {tuple(start.shape[1:])}"
            )
        return start


def lay_out(
    operator: Operator | Any,
    y: torch.Tensor,
    shape: Sequence[int] | None,
    window: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    multiple: int = 1,
    latent: bool = False,
) -> Laid:
    """Put a picture on a canvas of whole windows.

    Raises:
        ValueError: a shape that does not follow from y; latents that are smaller than a window.
    """
    operator = as_operator(operator, y, shape)
    if shape is None:
        shape = sample_shape(Problem(operator, y), None)
    if len(shape) != 3:
        raise ValueError(f"windows lie on pictures (C, H, W), got the shape {tuple(shape)}")
    channels, size = int(shape[0]), (int(shape[1]), int(shape[2]))
    windows = Windows.covering(size, window, stride, multiple)
    if windows.size != size:
        if latent:
            raise ValueError(
                f"latents of {size[0]} x {size[1]} do not fill windows of {windows.window[0]} x {windows.window[1]}; "
                "enlarge the picture, or take smaller windows"
            )
        operator = inset(operator, size, windows.size)
    return Laid(operator, size, (channels, *windows.size), windows)


def windows_cost(method: PosteriorMethod, process: Process, grid: Grid, windows: Windows) -> Cost:
    """Evaluations of one window a sample, by `run_canvas` as by `run_msr`: the method's times the number of windows."""
    cost = method.cost(method.plan(process, grid))
    return Cost(cost.forward * len(windows), cost.backward * len(windows))


def run_canvas(
    denoiser: Denoiser,
    method: PosteriorMethod,
    process: Process,
    grid: Grid,
    operator: Operator | Any,
    y: torch.Tensor,
    *,
    window: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    multiple: int = 1,
    batch: int = 8,
    weights: str = "tapered",
    shape: Sequence[int] | None = None,
    start: torch.Tensor | None = None,
    **options: Any,
) -> PosteriorResult:
    """`run_posterior` for a picture of any size, with a network that sees windows only.

    Args:
        denoiser, method, process, grid, operator, y: as for `run_posterior`; the operator and y of the whole picture.
        window: side of the windows that the network sees, or (h, w).
        stride: from one window to the next; half a window by default.
        multiple: what the sides of the canvas must be divisible by.
        batch: most windows in the network at a time, which bounds the memory.
        weights: ``tapered`` or ``uniform``, where windows overlap.
        shape: (C, H, W) of the picture (or latents), where it does not follow from A^T y.
        start: sample at the first node, on the canvas: the picture, enlarged to one window where it is smaller.
        options: as for `run_posterior`; hooks, callback and `start` see the canvas.

    Returns:
        The pictures; `forward` and `backward` count evaluations of one window.

    Raises:
        ValueError, TypeError: what `run_posterior` raises; a stride above the window, unknown weights.
    """
    laid = lay_out(operator, y, shape, window, stride, multiple, latent=method.space == "latent")
    tiled = WindowedDenoiser(denoiser, laid.windows, batch, weights)
    result = run_posterior(
        tiled, method, process, grid, laid.operator, y, shape=laid.shape, start=laid.fits(start), **options
    )
    count = len(laid.windows)
    return dataclasses.replace(
        result, sample=laid.cropped(result.sample), forward=result.forward * count, backward=result.backward * count
    )
