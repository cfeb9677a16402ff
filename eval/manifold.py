"""Improved precision and recall: how much of either set lies where the other one does."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 1024


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Share of the fake set in the real set's support, and of the real set in the fake set's.

    The support of a set is the union of balls around its features, each as wide as the distance to its k-th nearest
    neighbour in the set. (Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models",
    2019, arXiv 1904.06991.) Both depend on the numbers of pictures: compare only at equal ones.

    Args:
        real, fake: features (N, d) and (M, d).
        k: which neighbour, below N and M.

    Returns:
        Precision and recall, in [0, 1].

    Raises:
        ValueError: shapes that do not fit, or no k other rows.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features must have shapes (N, d) and (M, d), got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k must be at least 1 and below the number of pictures, {len(real)} and {len(fake)}; got {k}")
    real, fake = (side.detach().to("cpu").to(torch.float64) for side in (real, fake))
    if not (real.isfinite().all() and fake.isfinite().all()):
        raise ValueError("features must be finite, and some of their numbers are not")
    return _inside(fake, real, radii(real, k)), _inside(real, fake, radii(fake, k))


def radii(features: Tensor, k: int) -> Tensor:
    """Distance of every row to its k-th nearest other row: (N, d) -> (N,)."""
    found = []
    for i in range(0, len(features), _ROWS):
        distance = _distances(features[i : i + _ROWS], features)
        distance[:, i : i + _ROWS].fill_diagonal_(torch.inf)
        found.append(distance.kthvalue(k, dim=1).values)
    return torch.cat(found)


def _inside(points: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of the points that lie in any ball."""
    inside = [(_distances(rows, centres) <= radius).any(1) for rows in points.split(_ROWS)]
    return float(torch.cat(inside).double().mean())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, d), (M, d) -> (N, M). What is below the rounding of the products is 0: equal rows are at no distance."""
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = norms - 2 * a @ b.T
    return squared.where(squared > 1e-12 * norms, 0).sqrt()
