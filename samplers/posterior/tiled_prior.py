"""A denoiser of one size made a denoiser of any size: windows of the sample, their predictions averaged in overlaps."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from ..core.run import Denoiser
from .windows import Box, Windows


class WindowedDenoiser:
    """The weighted mean of what a network predicts for windows of the sample,

        p(x)_i = sum_w weight_w(i) p_w(x_w)_i,      sum_w weight_w(i) = 1.

    x0 and eps are linear in the prediction, so theirs are averaged alike. No more than `batch` windows are in the
    network at a time, with gradients too: their activations are computed again on the way back.

    Args:
        denoiser: ``denoiser(x, timestep) -> prediction`` for windows, (N, C, h, w).
        windows: the layout on the canvas.
        batch: most windows at a time. They come for all B pictures of a batch together (window by window, the pictures
            in order within), so N is a multiple of B, and B at least; conditions of the pictures are to be repeated
            N / B times.
        weights: ``tapered`` or ``uniform``, see `Windows.weights`.

    Attributes:
        evaluations: windows that the network has seen so far, of one picture of the batch.

    Reference: Bar-Tal, Yariv, Lipman, Dekel 2023, MultiDiffusion (arXiv 2302.08113).
    """

    def __init__(self, denoiser: Denoiser, windows: Windows, batch: int = 8, weights: str = "tapered") -> None:
        if batch < 1:
            raise ValueError(f"at least one window must go through the network at a time, got {batch!r}")
        self.denoiser, self.windows, self.batch = denoiser, windows, int(batch)
        self.vertical, self.horizontal = windows.weights(weights)
        self.evaluations = 0

    def _places(self) -> list[tuple[Box, int, int]]:
        across = len(self.windows.columns)
        return [(box, i // across, i % across) for i, box in enumerate(self.windows)]

    def _predict(self, part: torch.Tensor, timestep: float) -> torch.Tensor:
        if torch.is_grad_enabled() and part.requires_grad:
            return checkpoint(self.denoiser, part, timestep, use_reentrant=False)
        return self.denoiser(part, timestep)

    def __call__(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        """The prediction for (B, C, H, W) on the canvas.

        Raises:
            ValueError: a sample of another size than the canvas, or a network that returns another shape.
        """
        if tuple(x.shape[-2:]) != self.windows.size:
            raise ValueError(
                f"the windows lie on a canvas of {self.windows.size[0]} x {self.windows.size[1]}, got a sample of "
                f"{tuple(x.shape)}"
            )
        self.evaluations += len(self.windows)
        if len(self.windows) == 1:
            return self.denoiser(x, timestep)
        places, count = self._places(), max(self.batch // len(x), 1)
        result = torch.zeros_like(x)
        vertical, horizontal = self.vertical.to(x), self.horizontal.to(x)
        for first in range(0, len(places), count):
            group = places[first : first + count]
            part = torch.cat([box.of(x) for box, _, _ in group])
            said = self._predict(part, timestep)
            if said.shape != part.shape:
                raise ValueError(
                    f"the network was given windows of shape {tuple(part.shape)} and returned {tuple(said.shape)}"
                )
            for (box, row, column), piece in zip(group, said.to(x.dtype).split(len(x)), strict=True):
                box.of(result).add_(piece * (vertical[row][:, None] * horizontal[column]))
        return result
