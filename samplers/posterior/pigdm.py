"""PiGDM: guidance by the likelihood of a Gaussian around the clean estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from ..core.process import Node
from .chain import ChainMethod, Corrected
from .draws import Draws
from .prior import Prior
from .problem import Problem
from .references import SONG_2023
from .registry import posterior_alias, register_posterior
from .stepping import Descent, ddim_share, implied_eps


def guided(step: Descent, x0: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
    """E[x0 | x, y] from E[x0 | x] and the gradient of log p(y | x): x0 + (sigma^2 / alpha) guidance (Tweedie)."""
    node = step.node
    return x0 if node.alpha == 0 else x0 + (node.sigma**2 / node.alpha) * guidance


@register_posterior
@dataclass(frozen=True, kw_only=True)
class PiGDM(ChainMethod):
    """Pseudo-inverse guidance: p(x0 | x) is taken for N(x0, r^2 I).

        score += J^T A^T (r^2 A A^T + sigma_y^2 I)^{-1} (y - A x0),      J = d x0 / d x,
        r^2 = v sigma^2 / (v alpha^2 + sigma^2),

    v being `data_variance` (1: r^2 = 1 - alpha-bar on a variance-preserving process). Exact for the prior N(0, v I).
    One backward evaluation a step. At pure noise (alpha = 0) nothing is corrected.

    Reference: Song, Vahdat, Mardani, Kautz 2023 (ICLR).
    """

    weight: float = option(1.0, "Factor on the guidance.", low=0)
    data_variance: float = option(1.0, "Variance of the data that r assumes.", low=0, open_low=True)
    eta: float = option(1.0, "Fresh noise of the step: 1 ancestral (DDPM), 0 none (DDIM).", low=0, high=1)
    rcond: float = option(0.03, "Without noise: singular values below this share count as 0.", low=0, high=1)

    name: ClassVar[str] = "pigdm"
    summary: ClassVar[str] = "gradients with a pseudo-inverse; about 100 steps"
    formula: ClassVar[str] = "∇ log p(y|x) = Jᵀ Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ (y - A x̂₀)"
    references: ClassVar[tuple[Reference, ...]] = (SONG_2023,)
    gradient: ClassVar[bool] = True

    def share(self, node: Node, to: Node) -> float:
        return ddim_share(node, to, self.eta)

    def _pull_back(self, step: Descent, residual: torch.Tensor, like: torch.Tensor, problem: Problem) -> torch.Tensor:
        """A^T (r^2 A A^T + sigma_y^2 I)^{-1} residual: a proximal map from zero, divided by r^2."""
        node, v = step.node, self.data_variance
        square = v * node.sigma**2 / (v * node.alpha**2 + node.sigma**2)
        if problem.sigma_y == 0:
            return problem.linear.A_dagger(residual, self.rcond) / square
        gamma = square / problem.sigma_y**2
        return problem.linear.prox_l2(torch.zeros_like(like), residual, gamma) / square

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        said = prior.trace(x, step.node)
        x0 = said.x0.detach()
        residual = problem.residual(x0)
        guidance = said.pull(self._pull_back(step, residual, x0, problem))
        x0 = guided(step, x0, self.weight * guidance)
        return Corrected(x0, implied_eps(step.node, x, x0), problem.size_of(residual))


posterior_alias("pi-gdm", "pigdm")
