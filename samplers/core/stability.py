"""How much guidance a momentum method stands: the critical guidance scale of one step, and the damping it asks for.

Where the condition is decided but the unconditional model is not, the guided slope behaves as f = g x_bar / sigma_bar
(g: guidance scale). On a grid with the constant ratio q = sigma_bar' / sigma_bar a multistep method is stable on this
model up to a critical g*, which has a closed form for each method; larger damping numbers beta (1: no momentum) have a
smaller g*. `damping_for` inverts that. The formulas and the inversion are this package's own work, built on the
stability analysis of Wizadwongsa et al. 2023 (arXiv 2307.11118).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .weights import adams_bashforth, from_differences, ghvb_differences


def _alternating(weights: Sequence[float], q: float) -> float:
    return math.fsum(w * (-q) ** j for j, w in enumerate(weights))


def critical_guidance_ghvb(order: int, damping: float, q: float) -> float:
    """g* of GHVB: 2 (1 + (1 - beta) q) / ((1 - q) sum_j C_j (-q)^j), C_j = beta times its weight on f_{n-j}."""
    return 2 * (1 + (1 - damping) * q) / ((1 - q) * _alternating(from_differences(ghvb_differences(order, damping)), q))


def critical_guidance_heavy_ball(order: int, damping: float, q: float) -> float:
    """g* of heavy ball on Adams-Bashforth: 2 (1 + (1 - beta) q) / ((1 - q) beta sum_j b_j (-q)^j)."""
    return 2 * (1 + (1 - damping) * q) / ((1 - q) * damping * _alternating(adams_bashforth(order), q))


def critical_guidance_nesterov(order: int, damping: float, q: float) -> float:
    """g* of Nesterov on Adams-Bashforth: 2 / ((1 - q) beta (1 + (1 - beta) / (1 + (1 - beta) q)) sum_j b_j (-q)^j)."""
    rest = 1 - damping
    return 2 / ((1 - q) * damping * (1 + rest / (1 + rest * q)) * _alternating(adams_bashforth(order), q))


def critical_guidance_exponential(damping: float, q: float) -> float:
    """g* of heavy ball on second-order exponential Adams in data form: 1 + (1 + q)(2 - beta) / (2 beta (1 - q))."""
    return 1 + (1 + q) * (2 - damping) / (2 * damping * (1 - q))


def damping_for(guidance: float, critical: Callable[[float], float], lowest: float) -> float | None:
    """Largest damping number in [lowest, 1] whose critical guidance reaches `guidance`; None if there is none.

    `critical` must not increase with damping; it is inverted by bisection to 1e-9.
    """
    if critical(1.0) >= guidance:
        return 1.0
    if critical(lowest) < guidance:
        return None
    low, high = lowest, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if critical(middle) >= guidance else (low, middle)
    return low


def lowest_damping(calls: int) -> float:
    """The smallest damping number worth using: memory lasts 1 / beta steps, so not below 3 / calls, nor 0.1."""
    return min(1.0, max(0.1, 3 / calls))
