"""Moment matching: guidance by the likelihood of the Gaussian with the true covariance of x0 given x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from ..core.process import Node
from .chain import ChainMethod, Corrected
from .draws import Draws
from .method import Cost, PosteriorPlan
from .operators.solvers import conjugate_gradients
from .pigdm import guided
from .prior import Prior
from .problem import Problem
from .references import BOYS_2023, ROZET_2024
from .registry import posterior_alias, register_posterior
from .stepping import Descent, ddim_share, implied_eps


@register_posterior
@dataclass(frozen=True, kw_only=True)
class MomentMatching(ChainMethod):
    """Moment-matching posterior sampling. Tweedie's second moment gives Cov[x0 | x] = (sigma^2 / alpha) J, and

        score += J^T A^T (A Cov A^T + sigma_y^2 I)^{-1} (y - A x0),      J = d x0 / d x,

    the linear system by `iterations` of conjugate gradients with vector-Jacobian products (J is symmetric for an exact
    network). Exact for every Gaussian prior, given enough iterations. At pure noise (alpha = 0) nothing is corrected.

    One forward and at most `iterations` + 1 backward evaluations a step.

    References: Rozet, Andry, Lanusse, Louppe 2024 (arXiv 2405.13712); Boys et al. 2023 (arXiv 2310.06721).
    """

    iterations: int = option(3, "Conjugate-gradient iterations a step, one backward evaluation each.", low=1, high=100)
    weight: float = option(1.0, "Factor on the guidance.", low=0)
    eta: float = option(1.0, "Fresh noise of the step: 1 ancestral (DDPM), 0 none (DDIM).", low=0, high=1)

    name: ClassVar[str] = "moment-matching"
    summary: ClassVar[str] = "the network's own covariance; exact for Gaussian priors"
    formula: ClassVar[str] = "∇ log p(y|x) = Jᵀ Aᵀ (A (σ²/α) J Aᵀ + σ_y² I)⁻¹ (y - A x̂₀)"
    references: ClassVar[tuple[Reference, ...]] = (ROZET_2024, BOYS_2023)
    gradient: ClassVar[bool] = True

    def share(self, node: Node, to: Node) -> float:
        return ddim_share(node, to, self.eta)

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        node, linear = step.node, problem.linear
        if node.alpha == 0:
            plain = prior(x, node)
            return Corrected(plain.x0, plain.eps, problem.size_of(problem.residual(plain.x0)))
        said = prior.trace(x, node)
        x0 = said.x0.detach()
        residual = problem.residual(x0)
        scale = node.sigma**2 / node.alpha

        def covariance(v: torch.Tensor) -> torch.Tensor:
            return problem.sigma_y**2 * v + scale * linear.A(said.pull(linear.A_adjoint(v), keep=True))

        v = conjugate_gradients(covariance, residual, 1e-6, self.iterations)
        guidance = said.pull(linear.A_adjoint(v))
        x0 = guided(step, x0, self.weight * guidance)
        return Corrected(x0, implied_eps(node, x, x0), problem.size_of(residual))

    def cost(self, plan: PosteriorPlan) -> Cost:
        """With the backward evaluations of all iterations; a run that converges earlier takes fewer."""
        down = sum(not move.up for move in plan.moves)
        return Cost(down, down * (self.iterations + 1))


posterior_alias("mmps", "moment-matching")
posterior_alias("tmpd", "moment-matching")
