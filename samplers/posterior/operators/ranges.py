"""Between pictures in [0, 1] and pictures in [-1, 1]: measurements, noise, and operators made for the other range."""

from __future__ import annotations

import torch

from .base import LinearOperator, Operator


def symmetric_measurement(operator: LinearOperator, y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The measurement in the scale of [-1, 1] of one made from a picture in [0, 1]: 2 y - A(1).

    A(1) is 1 for normalised blurs and resamplers only; for a mask it is the mask.

    Args:
        operator: linear.
        y: (B, ...), A of a picture in [0, 1].
        like: any tensor of the shape of the picture.
    """
    return 2 * y - operator.A(torch.ones_like(like))


def unit_measurement(operator: LinearOperator, y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The measurement in the scale of [0, 1] of one made from a picture in [-1, 1]: (y + A(1)) / 2."""
    return (y + operator.A(torch.ones_like(like))) / 2


def symmetric_sigma(sigma: float) -> float:
    """Standard deviation of noise in the scale of [-1, 1] from that in the scale of [0, 1]: twice."""
    return 2 * sigma


class UnitRange(Operator):
    """An operator made for pictures in [0, 1], taking pictures in [-1, 1]; its measurement stays as it is.

    For nonlinear operators. A linear one needs no wrapper: convert the measurement with `symmetric_measurement`.
    """

    def __init__(self, inner: Operator) -> None:
        self.inner, self.name, self.size = inner, inner.name, inner.size

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.A((x + 1) / 2)

    def picture_shape(self, y: torch.Tensor) -> tuple[int, ...] | None:
        return self.inner.picture_shape(y)

    def count(self, y: torch.Tensor) -> torch.Tensor:
        return self.inner.count(y)
