"""Separable operators: a small matrix on the columns and one on the rows, with the exact spectrum of their product."""

from __future__ import annotations

import torch

from .base import Constant, LinearOperator, Spectrum

#: Largest side of a picture: the matrices of one dimension are kept as they are.
LARGEST_SIDE = 8192


def check_side(*sides: int) -> None:
    """Refuse sides for which the matrices would not fit.

    Raises:
        ValueError: a side below 1 or above `LARGEST_SIDE`.
    """
    for side in sides:
        if not 1 <= side <= LARGEST_SIDE:
            raise ValueError(f"a separable operator takes sides of 1 to {LARGEST_SIDE} pixels, got {side}")


class Factor:
    """One matrix of a separable operator, (m, n), with its thin singular value decomposition, all float64.

    Given `u`, `s`, `v` (n, k) it is taken as it is; otherwise it is found here: from the smaller Gram matrix if that is
    well conditioned, which for resampling it is.
    """

    def __init__(
        self,
        matrix: torch.Tensor,
        svd: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self.rows, self.columns = int(matrix.shape[0]), int(matrix.shape[1])
        self.matrix = Constant(matrix)
        self._given = svd
        self._svd: tuple[Constant, Constant, Constant] | None = None

    def svd(self) -> tuple[Constant, Constant, Constant]:
        """(U, s, V), thin; computed when first asked for."""
        if self._svd is None:
            u, s, v = self._given or _decompose(self.matrix.value)
            self._svd = Constant(u), Constant(s), Constant(v)
        return self._svd


def _decompose(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if a.shape[0] < a.shape[1]:
        squares, u = torch.linalg.eigh(a @ a.T)
        if squares[0] > 1e-8 * squares[-1]:  # else too many digits are lost in the square
            s = squares.sqrt()
            return u, s, a.T @ u / s
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return u, s, vh.T


class Separable(LinearOperator):
    """A X = W_h X W_w^T for every channel of every picture.

    The singular values are the products s_i s_j of those of the two matrices, so the adjoint, the pseudo-inverse and
    the proximal map are exact, whatever happens at the borders.

    Args:
        vertical, horizontal: W_h (h, H) and W_w (w, W), as matrices or factors.
        name: for messages.
    """

    def __init__(
        self, vertical: torch.Tensor | Factor, horizontal: torch.Tensor | Factor, name: str = "separable operator"
    ) -> None:
        self.vertical = vertical if isinstance(vertical, Factor) else Factor(vertical)
        self.horizontal = horizontal if isinstance(horizontal, Factor) else Factor(horizontal)
        self.name = name
        self.size = (self.vertical.columns, self.horizontal.columns)
        self.measured = (self.vertical.rows, self.horizontal.rows)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.vertical.matrix.like(x) @ x @ self.horizontal.matrix.like(x).T

    def _check_y(self, y: torch.Tensor) -> torch.Tensor:
        if tuple(y.shape[-2:]) != self.measured:
            raise ValueError(
                f"{self.name} makes measurements of {self.measured[0]} x {self.measured[1]}, got {tuple(y.shape)}"
            )
        return super()._check_y(y)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.vertical.matrix.like(y).T @ y @ self.horizontal.matrix.like(y)

    def _spectrum(self, like: torch.Tensor) -> Spectrum:
        (uh, sh, vh), (uw, sw, vw) = (
            [part.like(like) for part in factor.svd()] for factor in (self.vertical, self.horizontal)
        )
        return Spectrum(
            sh[:, None] * sw,
            lambda x: vh.T @ x @ vw,
            lambda c: vh @ c @ vw.T,
            lambda y: uh.T @ y @ uw,
            lambda c: uh @ c @ uw.T,
        )
