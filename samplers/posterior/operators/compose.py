"""Several operators one after the other, with one pseudo-inverse for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .base import LinearOperator, Operator


def _name(parts: Sequence[Operator]) -> str:
    return " of ".join(part.name for part in reversed(parts))


class Chain(Operator):
    """Operators one after the other, of which some may be nonlinear: the first of the list acts first."""

    def __init__(self, parts: Sequence[Operator]) -> None:
        if not parts:
            raise ValueError("a composition needs at least one operator")
        self.parts, self.name = tuple(parts), _name(parts)
        self.size = parts[0].size

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part.A(x)
        return x

    def count(self, y: torch.Tensor) -> torch.Tensor:
        return self.parts[-1].count(y)


class LinearChain(LinearOperator):
    """A = A_k ... A_1, all linear: the first of the list acts first.

    The product of the pseudo-inverses in reverse order is not the pseudo-inverse of the product (masking and then
    pooling, say), so this one is found jointly, by conjugate gradients, as the proximal map is.

    Args:
        parts: A_1, ..., A_k.
        tolerance, iterations: of the conjugate gradients.
    """

    def __init__(self, parts: Sequence[LinearOperator], tolerance: float = 1e-7, iterations: int = 100) -> None:
        if not parts:
            raise ValueError("a composition needs at least one operator")
        self.parts, self.name = tuple(parts), _name(parts)
        self.size, self.tolerance, self.iterations = parts[0].size, tolerance, iterations

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part.A(x)
        return x

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        for part in reversed(self.parts):
            y = part.A_adjoint(y)
        return y

    def count(self, y: torch.Tensor) -> torch.Tensor:
        return self.parts[-1].count(y)


def compose(*parts: Operator) -> Operator:
    """Operators one after the other, the first acting first; linear if all of them are, one alone as it is."""
    if len(parts) == 1:
        return parts[0]
    linear = [part for part in parts if isinstance(part, LinearOperator)]
    return LinearChain(linear) if len(linear) == len(parts) else Chain(parts)
