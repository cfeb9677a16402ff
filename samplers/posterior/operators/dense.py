"""Any matrix, for small problems: compressed sensing, and checks against closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .base import Constant, LinearOperator, Spectrum


class Dense(LinearOperator):
    """y = M vec(x) for a matrix M of (m, n), n being the number of entries of one picture; y is (B, m).

    Args:
        matrix: (m, n).
        shape: of one picture, (C, H, W), with n entries.

    Raises:
        ValueError: a matrix that does not fit the shape, or has entries that are not finite.
    """

    name = "matrix"

    def __init__(self, matrix: torch.Tensor, shape: Sequence[int]) -> None:
        self.shape = tuple(int(n) for n in shape)
        if matrix.ndim != 2 or matrix.shape[1] != math.prod(self.shape) or not torch.isfinite(matrix).all():
            raise ValueError(
                f"a matrix operator for pictures of {self.shape} needs a finite matrix with {math.prod(self.shape)} "
                f"columns, got {tuple(matrix.shape)}"
            )
        self.matrix = Constant(matrix)
        u, s, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
        self._u, self._s, self._vh = Constant(u), Constant(s), Constant(vh)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.matrix.like(x).T

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return (y @ self.matrix.like(y)).reshape(len(y), *self.shape)

    def _spectrum(self, like: torch.Tensor) -> Spectrum:
        u, vh = self._u.like(like), self._vh.like(like)
        return Spectrum(
            self._s.like(like),
            lambda x: x.flatten(1) @ vh.T,
            lambda c: (c @ vh).reshape(len(c), *self.shape),
            lambda y: y @ u,
            lambda c: c @ u.T,
        )
