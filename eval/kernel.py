"""Kernel distances of two sets of features: unbiased estimates of the squared maximum mean discrepancy.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

(Gretton et al., "A Kernel Two-Sample Test", JMLR 2012). It has no bias at any number of pictures, and so may be
negative where the sets are alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]

_ROWS = 1024


def kernel_distance(x: Tensor, y: Tensor, *, degree: int = 3, gamma: float | None = None, coef0: float = 1.0) -> float:
    """MMD^2 with the kernel (gamma <a, b> + coef0)^degree: the KID of all pictures at once.

    (Binkowski et al., "Demystifying MMD GANs", 2018, arXiv 1801.01401.)

    Args:
        x, y: features (N, d) and (M, d), two rows at least.
        degree, gamma, coef0: of the kernel; gamma None is 1 / d.

    Raises:
        ValueError: shapes that do not fit, fewer than two rows, numbers that are not finite.
    """
    x, y = _rows(x, y)
    scale = 1 / x.shape[1] if gamma is None else gamma
    return _squared_discrepancy(x, y, lambda a, b: (a @ b.T * scale + coef0) ** degree)


def clip_mmd(x: Tensor, y: Tensor, *, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """MMD^2 of features of length one with the kernel exp(-|a - b|^2 / (2 sigma^2)), times `scale`.

    (CMMD; Jayasumana et al., "Rethinking FID", CVPR 2024, arXiv 2401.09603, which sums the diagonals of the kernel as
    well: a bias of about 2 scale (1 - mean k) / N that is left out here.)

    Args:
        x, y: features (N, d) and (M, d) of any length, divided by it here.
        sigma: width of the kernel, above 0.
        scale: what the distance is multiplied by, for the eye.
    """
    if sigma <= 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    x, y = _rows(x, y)
    x, y = torch.nn.functional.normalize(x), torch.nn.functional.normalize(y)
    return scale * _squared_discrepancy(x, y, lambda a, b: (-torch.cdist(a, b).square() / (2 * sigma**2)).exp())


def _rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features must have shapes (N, d) and (M, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs at least two pictures on either side, got {len(x)} and {len(y)}")
    x, y = (side.detach().to("cpu").to(torch.float64) for side in (x, y))
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("features must be finite, and some of their numbers are not")
    return x, y


def _squared_discrepancy(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """Block by block, so that memory does not grow with N M."""
    within = sum(_sum(side, side, kernel, diagonal=False) / (len(side) * (len(side) - 1)) for side in (x, y))
    return within - 2 * _sum(x, y, kernel) / (len(x) * len(y))


def _sum(x: Tensor, y: Tensor, kernel: Kernel, diagonal: bool = True) -> float:
    total = 0.0
    for i in range(0, len(x), _ROWS):
        for j in range(0, len(y), _ROWS):
            block = kernel(x[i : i + _ROWS], y[j : j + _ROWS])
            total += float(block.sum() - (block.diagonal().sum() if not diagonal and i == j else 0.0))
    return total
