"""Conjugate gradients, every sample of a batch on its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

Map = Callable[[torch.Tensor], torch.Tensor]


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def _ratio(a: torch.Tensor, b: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    return torch.where(held, a / torch.where(held, b, 1.0), 0.0)


def conjugate_gradients(
    apply: Map, b: torch.Tensor, tolerance: float = 1e-6, iterations: int = 50, precondition: Map | None = None
) -> torch.Tensor:
    """Solve M x = b for a symmetric positive map M, from x = 0.

    A sample stops when |b - M x| is `tolerance` times |b|, or when M shows a direction that is not positive.

    Args:
        apply: M, one batch at a time.
        b: (B, ...).
        tolerance: relative.
        iterations: most of them.
        precondition: an approximate inverse of M, symmetric and positive.

    Reference: Hestenes and Stiefel 1952.
    """
    x, r = torch.zeros_like(b), b
    z = r if precondition is None else precondition(r)
    p, rz = z, _dot(r, z)
    goal = tolerance**2 * _dot(b, b)
    for _ in range(iterations):
        live = _dot(r, r) > goal
        if not live.any():
            break
        mp = apply(p)
        curvature = _dot(p, mp)
        live = live & (curvature > 0)
        step = _ratio(rz, curvature, live)
        x, r = x + step * p, r - step * mp
        z = r if precondition is None else precondition(r)
        new = _dot(r, z)
        p = z + _ratio(new, rz, live & (rz > 0)) * p
        rz = new
    return x


def cgls(apply: Map, adjoint: Map, y: torch.Tensor, tolerance: float = 1e-6, iterations: int = 50) -> torch.Tensor:
    """The shortest x among those that minimise |A x - y|: conjugate gradients on A^T A x = A^T y, from x = 0.

    A sample stops when |A^T(y - A x)| is `tolerance` times |A^T y|.

    Reference: Paige and Saunders 1982, algorithm CGLS.
    """
    r = y
    s = adjoint(r)
    x, p, square = torch.zeros_like(s), s, _dot(s, s)
    goal = tolerance**2 * square
    for _ in range(iterations):
        live = square > goal
        if not live.any():
            break
        q = apply(p)
        step = _ratio(square, _dot(q, q), live)
        step = step.reshape(-1, *[1] * (s.ndim - 1))
        x = x + step * p
        r = r - step.reshape(-1, *[1] * (r.ndim - 1)) * q
        s = adjoint(r)
        new = _dot(s, s)
        p = s + _ratio(new, square, live) * p
        square = new
    return x
