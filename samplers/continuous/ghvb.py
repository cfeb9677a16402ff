"""Generalized heavy ball (GHVB): Adams-Bashforth on a velocity that forgets.

Averaging the slope before the high-order combination enlarges the stability region at no extra network call and, unlike
heavy ball, keeps the order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Method, Reference, Spec, State, combine, evaluate, option, transport
from ..core.process import Linear, Process, ddim, field_of, slope_coordinate
from ..core.registry import alias, register
from ..core.stability import critical_guidance_ghvb, damping_for, lowest_damping
from ..core.weights import from_differences, ghvb_differences, moment_matched
from .heavy_ball import WIZADWONGSA_2023, split_momentum


@dataclass(frozen=True)
class GHVBStep:
    """g = field(x, p) - v; v <- v + beta g; x' = base(x, p) + gain v + sum_j weights[j] g_{n-j}."""

    base: Linear
    field: Linear
    beta: float
    gain: float
    weights: tuple[float, ...]
    keep: int


@register
@dataclass(frozen=True)
class GHVB(Method):
    """Generalized heavy ball of order k = ceil(`momentum`) and damping beta = `momentum` - (k - 1).

        v <- (1 - beta) v + beta f_n,      x_bar' = x_bar + (delta / beta) sum_{i<k} c_i Delta^i v,
        c_0 = beta,  c_i = beta gamma_i + (1 - beta) gamma_{i-1},

    computed without the division, from g = f_n - v_old: slope used = v + c_1 g + c_2 Delta g + c_3 Delta^2 g + ...
    An integer `momentum` is Adams-Bashforth of that order (beta = 1). Smaller beta is steadier at few steps and strong
    guidance, and less accurate where nothing diverges: 1.5 or 2.5 for strong guidance, 3.8 to 3.9 for mild.

    ``weights="fixed"`` are the published ones, for equal steps: order k there, min(k, 2) on other grids.
    ``"moment-matched"`` (this package's own) solves for weights that integrate polynomials of degree < k exactly on the
    grid at hand, start-up and changing beta included: order k on any grid. They help on grids uniform in time and hurt
    on Karras grids at few steps.

    ``momentum="auto"`` (this package's own) chooses order and damping for every step: the highest order up to
    `max_order`, and for it the largest damping number, whose critical guidance reaches `guidance_scale`
    (`fewstep.samplers.core.stability`), with moment-matched weights. It is the cautious choice: steadier than fixed
    numbers under strong guidance, less accurate than one that happens to be stable. `guidance_scale` is that of the
    run; `fewstep.pipelines.generate` fills it in.

    Reference: Wizadwongsa et al. 2023 (arXiv 2307.11118), section 4.2.
    """

    momentum: float | str = option(
        2.5, "Momentum number: order = ceil, damping = rest; an integer is Adams-Bashforth; 'auto' by stability.",
        low=0, high=5, open_low=True, words=("auto",),
    )  # fmt: skip
    weights: str = option(
        "fixed", "Published weights for equal steps, or matched to the grid.", choices=("fixed", "moment-matched")
    )
    guidance_scale: float = option(7.5, "Guidance scale of the run; used by 'auto' alone.", low=0)
    max_order: int = option(3, "Highest order that 'auto' may use.", low=1, high=5)
    euler_at_final: bool = option(False, "Take the last step at first order (helps below momentum 1).")

    name: ClassVar[str] = "ghvb"
    summary: ClassVar[str] = "strong guidance at few steps: momentum that keeps its order"
    formula: ClassVar[str] = "v ← (1-β) v + β f,  x̄' = x̄ + (δ/β) Σ c_i Δ^i v"
    references: ClassVar[tuple[Reference, ...]] = (WIZADWONGSA_2023,)

    @property
    def numbers(self) -> tuple[int, float]:
        """(order, damping); for 'auto' the highest order and no damping."""
        return (self.max_order, 1.0) if isinstance(self.momentum, str) else split_momentum(self.momentum)

    @property
    def spec(self) -> Spec:
        order, _ = self.numbers
        matched = self.weights == "moment-matched" or self.momentum == "auto"
        reached = min(order, 2) if self.euler_at_final else order
        needs = "equal steps" if reached > 2 and not matched else "any"
        return Spec(reached, min(reached, 2), needs, history=max(order - 1, 1), operations=order + 4)

    def schedule(self, grid: Grid) -> list[tuple[int, float]]:
        """(order, damping) of every step, before the warm-up caps the order."""
        if not isinstance(self.momentum, str):
            return [self.numbers] * grid.calls
        lowest = lowest_damping(grid.calls)
        chosen: list[tuple[int, float]] = []
        for n, (node, to) in enumerate(pairwise(grid.nodes)):
            q = to.ratio / node.ratio if node.ratio > 0 else math.inf
            if q > 1 or math.isinf(node.ratio):  # towards noise, or nothing averaged yet: no guided stiffness
                chosen.append((self.max_order, 1.0))
                continue
            if n == grid.calls - 1 and chosen:  # nothing can grow any more
                chosen.append(chosen[-1])
                continue
            best = (1, lowest)
            for order in range(self.max_order, 0, -1):

                def critical(beta: float, order: int = order, q: float = q) -> float:
                    return critical_guidance_ghvb(order, beta, q)

                found = damping_for(self.guidance_scale, critical, lowest)
                if found is not None:
                    best = (order, found)
                    break
            chosen.append(best)
        return chosen

    def plan_steps(self, process: Process, grid: Grid) -> tuple[GHVBStep, ...]:
        nodes = grid.nodes
        matched = self.weights == "moment-matched" or self.momentum == "auto"
        keep = max(self.numbers[0] - 2, 0)
        taus = [slope_coordinate(process, node)[1] for node in nodes]
        velocities: list[list[float]] = []  # velocity after call i as weights on f_0 .. f_i
        betas: list[float] = []
        steps = []
        for n, ((order, beta), node, to) in enumerate(zip(self.schedule(grid), nodes[:-1], nodes[1:], strict=True)):
            betas.append(beta)
            velocities.append([(1 - beta) * w for w in velocities[-1]] + [beta] if n else [1.0])
            a, c = transport(process, node, to, "slope")
            order = 1 if self.euler_at_final and n == grid.calls - 1 else min(order, n + 1)
            if matched:
                first = 0 if math.isfinite(taus[0]) else 1
                on_g = _matched_on_g(velocities, betas, taus, n, min(order, n + 1 - first), first)
            else:
                on_g = from_differences(ghvb_differences(order, beta)[1:]) if order > 1 else []
            if n == 0:
                steps.append(GHVBStep(ddim(process, node, to), field_of(process, "slope", node), 1.0, 0.0, (), keep))
                continue
            field = field_of(process, "slope", node)
            steps.append(GHVBStep(Linear(a, 0.0), field, beta, c, tuple(c * w for w in on_g), keep))
        return tuple(steps)

    def advance(
        self, step: GHVBStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        slope = evaluate(step.field, x, prediction)
        if not state:
            return evaluate(step.base, x, prediction), (slope,)
        g = slope - state[0]
        velocity = torch.add(state[0], g, alpha=step.beta)
        terms = [(step.gain, velocity), *zip(step.weights, (g, *state[1:]), strict=False)]
        return combine(step.base, x, prediction, terms), (velocity, *((g, *state[1:])[: step.keep]))


def _matched_on_g(
    velocities: list[list[float]], betas: list[float], taus: list[float], n: int, order: int, first: int
) -> list[float]:
    """Weights on g_n, g_{n-1}, ... (beside v_n with weight 1) that integrate polynomials of degree < `order` exactly.

    The weights w on v_n, v_{n-1}, ... solve the moment equations; with v_{n-l} = v_n - sum_{i<l} beta_{n-i} g_{n-i}
    they become -beta_{n-i} sum_{l>i} w_l on g_{n-i}, which loses no digits for small beta.
    """
    if order < 2:
        return []
    step = taus[n + 1] - taus[n]

    def moment(lag: int, m: int) -> float:
        weights = velocities[n - lag]
        # a slope at pure noise has no finite abscissa: it counts as taken at the first finite one
        return math.fsum(w * ((taus[max(j, first)] - taus[n]) / step) ** m for j, w in enumerate(weights))

    w = moment_matched([[moment(lag, m) for m in range(order)] for lag in range(order)])
    return [-betas[n - i] * math.fsum(w[i + 1 :]) for i in range(order - 1)]


alias("ghvb auto", "ghvb", momentum="auto")
