"""RED-diff: optimise one picture; the network says at ever lower noise what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Reference, option
from ..core.process import Node, Process
from .draws import Draws
from .method import Cost, Moved, PosteriorMethod, PosteriorPlan
from .operators.base import LinearOperator
from .prior import Prior
from .problem import Problem
from .references import MARDANI_2024
from .registry import posterior_alias, register_posterior
from .travel import Move


@dataclass(frozen=True)
class Pull:
    """One optimisation step: noise level, and the weight of the network's say."""

    node: Node
    weight: float


@register_posterior
@dataclass(frozen=True, kw_only=True)
class REDDiff(PosteriorMethod):
    """Regularisation by denoising diffusion: variational inference with a Gaussian of no width.

    At noise levels from high to low, one Adam step on the picture mu with the gradient (every term a mean)

        weight (sigma / alpha) (eps(alpha mu + sigma n) - n) / d  -  data_weight A^T (y - A mu) / m,

    d the number of entries of mu, m that of the measured entries of y (for masks the known ones). It finds a mode, not
    a sample: pictures are smooth, and their spread says nothing. The start is A^+ y; operators that are not linear
    start from zeros.

    Published settings: rate 0.1 (0.5 in the documented command), weight 0.25, 50 to 100 steps.

    Reference: Mardani, Song, Kautz, Vahdat 2024 (arXiv 2305.04391).
    """

    rate: float = option(0.1, "Learning rate of Adam.", low=0, open_low=True)
    weight: float = option(0.25, "Weight of the network's term.", low=0)
    data_weight: float = option(1.0, "Weight of the data term.", low=0)
    beta_1: float = option(0.9, "Adam: memory of the gradient.", low=0, high=0.9999)
    beta_2: float = option(0.99, "Adam: memory of its square.", low=0, high=0.999999)
    rcond: float = option(0.03, "Start: singular values below this share of the largest count as 0.", low=0, high=1)

    name: ClassVar[str] = "red-diff"
    summary: ClassVar[str] = "one good picture by optimisation; no gradients through the network"
    formula: ClassVar[str] = "∇ = w (σ/α) (ε(α μ + σ n) - n) / d - v Aᵀ(y - A μ) / m"
    references: ClassVar[tuple[Reference, ...]] = (MARDANI_2024,)
    needs: ClassVar[str] = "forward"

    def plan_steps(self, process: Process, grid: Grid, moves: tuple[Move, ...]) -> tuple[Pull, ...]:
        return tuple(Pull(node, self.weight * min(node.ratio, 1e4)) for node, _ in pairwise(grid.nodes))

    def start(self, plan: PosteriorPlan, problem: Problem, noise: torch.Tensor) -> torch.Tensor:
        operator = problem.operator
        if isinstance(operator, LinearOperator):
            return operator.A_dagger(problem.y, self.rcond)
        return torch.zeros_like(noise)

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
        step: Pull = plan.steps[i]
        normal = draws.normal(x)
        said = prior(step.node.alpha * x + step.node.sigma * normal, step.node)
        residual = problem.residual(x)
        count = problem.operator.count(problem.y).to(x).reshape(-1, *[1] * (x.ndim - 1))
        gradient = step.weight * (said.eps - normal) / x[0].numel()
        gradient = gradient - self.data_weight * problem.operator.vjp(x, residual) / count
        first, second = state if state else (torch.zeros_like(x), torch.zeros_like(x))
        first = self.beta_1 * first + (1 - self.beta_1) * gradient
        second = self.beta_2 * second + (1 - self.beta_2) * gradient.square()
        scale = self.rate / (1 - self.beta_1 ** (i + 1))
        x = x - scale * first / ((second / (1 - self.beta_2 ** (i + 1))).sqrt() + 1e-8)
        x = problem.settle(x, step.node)
        return Moved(x, (first, second), x, problem.size_of(residual))

    def cost(self, plan: PosteriorPlan) -> Cost:
        return Cost(len(plan.moves))


posterior_alias("reddiff", "red-diff")
