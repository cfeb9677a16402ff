"""DAPS: at every noise level a fresh clean sample that fits the data, then new noise; no memory of the level before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch

from ..core.grid import CLEAN, Grid, karras
from ..core.method import Method, Plan, Reference, option
from ..core.process import Flow, Node, Process
from ..core.registry import resolve
from .draws import Draws
from .method import Cost, Moved, PosteriorMethod, PosteriorPlan
from .operators.base import LinearOperator
from .prior import Prior
from .problem import Problem
from .references import ZHANG_2025
from .registry import register_posterior
from .stepping import predicting_data
from .travel import Move


def node_at_ratio(process: Process, ratio: float) -> Node:
    """The noise level with this sigma / alpha."""
    return process.at_sigma(ratio / (1 + ratio) if isinstance(process, Flow) else ratio)


@dataclass(frozen=True)
class Level:
    """One level: the ODE down to clean data, and the widths and the rate of the Langevin steps there."""

    node: Node
    to: Node
    ode: Plan
    ratio: float
    decay: float


@register_posterior
@dataclass(frozen=True, kw_only=True)
class DAPS(PosteriorMethod):
    """Decoupled annealing posterior sampling. At every noise level, with u = sigma / alpha:

    1. solve the ODE from x to clean data in `ode_steps` network calls: x0;
    2. draw z from exp(-|y - A z|^2 / (2 tau^2) - |z - x0|^2 / (2 u^2));
    3. x' = alpha' z + sigma' n.

    Step 2 is `langevin_steps` of Langevin dynamics (``draw="langevin"``, as published, for any differentiable A) or,
    for a linear operator, one exact draw by a proximal map of perturbed data (``"exact"``, this package's own):
    z = argmin |y + tau n1 - A z|^2 / tau^2 + |z - x0 - u n2|^2 / u^2. ``"auto"`` is exact where it can be.
    tau is sigma_y, at least `tau_min`.

    Published settings: 200 levels from sigma 100 to 0.1 (Karras), 5 ODE steps, 100 Langevin steps at rates of 1e-4
    (5e-5 for boxes and motion blur) that fall to 1 %, tau = 0.01. `ode_sampler` is any method of the core.

    Reference: Zhang et al. 2025 (arXiv 2407.01521).
    """

    ode_steps: int = option(5, "Network calls of the ODE at every noise level.", low=1)
    ode_sampler: str = option(
        "exponential-adams", "Method that solves the ODE.",
        choices=("exponential-adams", "adams-bashforth", "ghvb", "heavy-ball", "nesterov", "lml"),
    )  # fmt: skip
    draw: str = option("auto", "How the data come in.", choices=("auto", "exact", "langevin"))
    langevin_steps: int = option(100, "Langevin steps at every noise level.", low=1)
    langevin_rate: float = option(1e-4, "Rate of the Langevin steps at the first level.", low=0, open_low=True)
    rate_end: float = option(0.01, "Share of the rate that is left at the last level.", low=0, high=1)
    tau_min: float = option(0.01, "Least width of the likelihood.", low=0)
    ratio_min: float = option(
        0.01, "Noise-to-signal ratio from which the ODE jumps to clean data.", low=0, open_low=True
    )

    name: ClassVar[str] = "daps"
    summary: ClassVar[str] = "nonlinear operators and several modes; many calls"
    formula: ClassVar[str] = "z ~ exp(-‖y - A z‖²/2τ² - ‖z - x̂₀‖²/2u²),  x' = α' z + σ' n"
    references: ClassVar[tuple[Reference, ...]] = (ZHANG_2025,)
    needs: ClassVar[str] = "forward"

    def check(self, problem: Problem) -> None:
        if self.draw == "exact":
            _ = problem.linear

    def plan_steps(self, process: Process, grid: Grid, moves: tuple[Move, ...]) -> tuple[Level, ...]:
        sampler: Method = resolve(self.ode_sampler).method
        levels, data = [], predicting_data(process)
        for i, (node, to) in enumerate(pairwise(grid.nodes)):
            nodes = [node]
            if self.ode_steps > 1 and node.ratio > 1.01 * self.ratio_min:
                high = min(node.ratio, 1e4)
                ratios = karras(self.ratio_min, high, self.ode_steps)[1:]
                nodes += [node_at_ratio(process, float(r)) for r in ratios]
            part = i / max(grid.calls - 1, 1)
            decay = 1 - part * (1 - self.rate_end)
            levels.append(Level(node, to, sampler.plan(data, Grid((*nodes, CLEAN))), min(node.ratio, 1e4), decay))
        return tuple(levels)

    def _clean(self, level: Level, x: torch.Tensor, prior: Prior) -> torch.Tensor:
        state: tuple[torch.Tensor, ...] = ()
        for k, node in enumerate(level.ode.calls):
            x, state = level.ode.method.step(level.ode, k, x, prior(x, node).x0, state)
        return x

    def _langevin(
        self, level: Level, x0: torch.Tensor, tau: float, problem: Problem, draws: Draws, norm: float | None
    ) -> torch.Tensor:
        rate = self.langevin_rate * level.decay
        if norm is not None:  # a longer step than 1 / (largest curvature) would diverge
            rate = min(rate, 1 / (norm**2 / tau**2 + 1 / level.ratio**2))
        z = x0
        for _ in range(self.langevin_steps):
            pull = problem.operator.vjp(z, problem.residual(z)) / tau**2 - (z - x0) / level.ratio**2
            z = z + rate * pull + math.sqrt(2 * rate) * draws.normal(z)
        return z

    def step(
        self,
        plan: PosteriorPlan,
        i: int,
        x: torch.Tensor,
        prior: Prior,
        problem: Problem,
        draws: Draws,
        state: Any = (),
    ) -> Moved:
        level: Level = plan.steps[i]
        x0 = self._clean(level, x, prior)
        residual = problem.size_of(problem.residual(x0))
        tau, linear = max(problem.sigma_y, self.tau_min), isinstance(problem.operator, LinearOperator)
        if self.draw == "langevin" or (self.draw == "auto" and not linear):
            if linear and not state:
                state = (problem.linear.norm(x),)
            z = self._langevin(level, x0, tau, problem, draws, state[0] if state else None)
        elif tau == 0:
            z = problem.linear.project(x0 + level.ratio * draws.normal(x0), problem.y)
        else:
            near, seen = x0 + level.ratio * draws.normal(x0), problem.y + tau * draws.normal(problem.y)
            z = problem.linear.prox_l2(near, seen, (level.ratio / tau) ** 2)
        z = problem.settle(z, level.node)
        result = level.to.alpha * z
        if level.to.sigma > 0:
            result = result + level.to.sigma * draws.normal(x)
        return Moved(result, state, z, residual)

    def cost(self, plan: PosteriorPlan) -> Cost:
        return Cost(sum(len(level.ode.calls) for level in plan.steps))
