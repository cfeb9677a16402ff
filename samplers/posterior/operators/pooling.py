"""Average pooling, whose pseudo-inverse replicates: the super-resolution operator of DDNM."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d

from .base import LinearOperator, Spectrum


class AveragePool(LinearOperator):
    """Means of blocks of `factor` x `factor` pixels. Every singular value is 1 / factor.

    Args:
        factor: 1 or above.
        size: (H, W) of the pictures, divisible by `factor`.

    Raises:
        ValueError: a size that is not divisible.
    """

    name = "average pool"

    def __init__(self, factor: int, size: tuple[int, int]) -> None:
        if factor < 1 or int(factor) != factor:
            raise ValueError(f"the factor of an average pool is a whole number of at least 1, got {factor!r}")
        if size[0] % factor or size[1] % factor:
            raise ValueError(
                f"a picture of {size[0]} x {size[1]} cannot be divided into blocks of {factor} x {factor}; crop it, or "
                "use the area kernel of the resampler"
            )
        self.factor, self.size = int(factor), (int(size[0]), int(size[1]))

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return avg_pool2d(x, self.factor)

    def _replicate(self, y: torch.Tensor) -> torch.Tensor:
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    def _check_y(self, y: torch.Tensor) -> torch.Tensor:
        assert self.size is not None
        expected = (self.size[0] // self.factor, self.size[1] // self.factor)
        if tuple(y.shape[-2:]) != expected:
            raise ValueError(f"{self.name} makes measurements of {expected[0]} x {expected[1]}, got {tuple(y.shape)}")
        return super()._check_y(y)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._replicate(y) / self.factor**2

    def _spectrum(self, like: torch.Tensor) -> Spectrum:
        f = self.factor
        return Spectrum(
            torch.full((), 1 / f, dtype=like.dtype, device=like.device),
            lambda x: avg_pool2d(x, f) * f,
            lambda c: self._replicate(c) / f,
            lambda y: y,
            lambda c: c,
        )
