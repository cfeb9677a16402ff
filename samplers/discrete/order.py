"""Low-discrepancy order of reveals: tokens that are drawn together stand far apart.

Tokens revealed at one call are drawn independently of each other, and what is lost is their dependence, which is
strongest between neighbours. A random choice of places leaves neighbours together now and then; an additive recurrence
(Kronecker's, with the golden ratio on a line) never does. Any order of reveals that does not look at the values gives
the model's own law in the limit of one token a call, so nothing is biased by it. Where all tokens depend on each other
alike nothing is gained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def ratios(dimensions: int) -> tuple[float, ...]:
    """1/g, 1/g^2, ..., g the positive root of g^(d + 1) = g + 1.

    For d = 1 g is the golden ratio, 1.6180, for d = 2 the plastic number, 1.3247: the steps of the recurrence that are
    hardest to approach by fractions, in as many dimensions.
    """
    if dimensions < 1:
        raise ValueError(f"an order of reveals needs at least one axis, got {dimensions}")
    g = 2.0
    for _ in range(64):
        g = (1 + g) ** (1 / (dimensions + 1))
    return tuple(g ** -(k + 1) for k in range(dimensions))


def spread_order(shape: Sequence[int], shift: torch.Tensor) -> torch.Tensor:
    """When each place is revealed, as a number in [0, 1): u_i = shift + i_1 / g + i_2 / g^2 + ... modulo 1.

    With a shift that is uniform on [0, 1) every u_i is, as if it had been drawn by itself; together they are as evenly
    spread as can be. On a line the places with u in an interval of length f are never nearer to each other than the
    smallest Fibonacci number F_k with distance of F_k / 1.618 to the next whole number below f: 5 for f = 1/8, 8 for
    1/16 (the three-distance theorem). Of a picture's tokens, no two of eight neighbours are closer in u than 0.185.

    Args:
        shape: of a sequence, (L,), or of a picture's tokens, (H, W).
        shift: (B,) float64 in [0, 1), one a sequence.

    Returns:
        (B, L) float64 on the device of `shift`, L the product of the shape.

    References: Besnier et al. 2025 (arXiv 2503.17076) for tokens of pictures in the order of a Halton sequence; Roberts
    2018 ("The unreasonable effectiveness of quasirandom sequences") for the ratios.
    """
    places = torch.zeros(tuple(shape), dtype=torch.float64, device=shift.device)
    for axis, ratio in enumerate(ratios(len(shape))):
        index = torch.arange(shape[axis], dtype=torch.float64, device=shift.device) * ratio
        places = places + index.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return (places.reshape(1, -1) + shift[:, None].to(torch.float64)) % 1.0


#: Exponent of the distance with which the dependence between two places is taken to fall off.
FALL_OFF = 2.0


def closeness(first: torch.Tensor, second: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Sum over pairs of places, one of each set and no place with itself, of 1 / distance^2: (B,) float64.

    Args:
        first, second: sets of places, (B, L) bool.
        shape: (L,) or (H, W); distances are Euclidean.
    """
    axes = tuple(range(1, len(shape) + 1))
    double = [2 * n for n in shape]
    squares = torch.zeros(double, dtype=torch.float64, device=first.device)
    for axis, n in enumerate(double):
        step = torch.arange(n, dtype=torch.float64, device=first.device)
        away = torch.minimum(step, n - step) ** 2
        squares = squares + away.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    kernel = torch.where(squares > 0, squares.clamp_min(1) ** (-FALL_OFF / 2), 0.0)
    seen = second.to(torch.float64).reshape(-1, *shape)
    felt = torch.fft.irfftn(torch.fft.rfftn(seen, s=double, dim=axes) * torch.fft.rfftn(kernel), s=double, dim=axes)
    felt = felt[(slice(None), *(slice(n) for n in shape))].reshape(len(second), -1)
    return (felt * first).sum(1).clamp_min(0.0)
