"""Antialiased resizing as a matrix of one dimension: bicubic, Lanczos and area, centred as Pillow and torch do it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ...core.registry import nearest
from .separable import Factor, Separable, check_side


def _bicubic(t: torch.Tensor) -> torch.Tensor:
    """Keys' cubic with a = -1/2, the one of antialiased resizing in Pillow, torch and MATLAB."""
    a, t = -0.5, t.abs()
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def _lanczos(t: torch.Tensor) -> torch.Tensor:
    return torch.where(t.abs() < 3, torch.sinc(t) * torch.sinc(t / 3), 0.0)


#: Kernel and half width, in output pixels, of the resampling filters.
KERNELS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


def resampling_matrix(length: int, to: int, kernel: str = "bicubic") -> torch.Tensor:
    """Matrix (to, length), float64, that resizes a line of pixels, antialiased; every row sums to 1.

    Output pixel i is centred at (i + 1/2) length / to - 1/2. ``bicubic`` and ``lanczos`` stretch their filter by the
    factor of reduction and cut it off at the border, as Pillow does; ``area`` is the mean over the pixel's own extent.

    Raises:
        ValueError: unknown kernel, a length below 1.
    """
    check_side(length, to)
    ratio = length / to
    edges = torch.arange(to + 1, dtype=torch.float64) * ratio
    pixels = torch.arange(length, dtype=torch.float64)
    if kernel == "area":
        low, high = edges[:-1, None], edges[1:, None]
        weights = (torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)).clamp_min(0)
    elif kernel in KERNELS:
        function, half = KERNELS[kernel]
        scale = max(ratio, 1.0)
        centres = (torch.arange(to, dtype=torch.float64) + 0.5) * ratio
        # Pillow takes the pixels whose centres lie within the rounded support, which matters where a filter jumps
        low = (centres - half * scale + 0.5).floor().clamp_min(0)[:, None]
        high = (centres + half * scale + 0.5).floor().clamp_max(length)[:, None]
        weights = function((pixels + 0.5 - centres[:, None]) / scale)
        weights = torch.where((pixels >= low) & (pixels < high), weights, 0.0)
    else:
        known = [*KERNELS, "area"]
        raise ValueError(f"unknown resampling kernel {kernel!r}{nearest(kernel, known)} Known are {', '.join(known)}")
    return weights / weights.sum(1, keepdim=True)


class Resample(Separable):
    """Resizing (H, W) -> (h, w), antialiased, with exact adjoint, pseudo-inverse and spectrum.

    Args:
        size: (H, W) of the pictures.
        factor: of reduction; the measurement has the sides H / factor and W / factor, rounded up. Or
        to: (h, w) itself.
        kernel: ``bicubic``, ``lanczos`` or ``area``.

    Raises:
        ValueError: neither or both of `factor` and `to`; enlarging; an unknown kernel.
    """

    def __init__(
        self,
        size: tuple[int, int],
        factor: float | None = None,
        kernel: str = "bicubic",
        to: tuple[int, int] | None = None,
    ) -> None:
        if (factor is None) == (to is None):
            raise ValueError("give either the factor of reduction or the size to resize to")
        if to is None:
            assert factor is not None
            if not factor >= 1:
                raise ValueError(f"the factor of reduction must be at least 1, got {factor!r}")
            to = (math.ceil(size[0] / factor), math.ceil(size[1] / factor))
        if to[0] > size[0] or to[1] > size[1]:
            raise ValueError(f"the resampler reduces pictures; {size[0]} x {size[1]} to {to[0]} x {to[1]} enlarges")
        vertical = Factor(resampling_matrix(size[0], to[0], kernel))
        same = size[0] == size[1] and to[0] == to[1]
        horizontal = vertical if same else Factor(resampling_matrix(size[1], to[1], kernel))
        super().__init__(vertical, horizontal, f"{kernel} resampler")
        self.kernel = kernel
