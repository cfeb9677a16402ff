"""PSLD: latent DPS with a second term that glues the data into a picture that the encoder gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from ..core.process import Node
from .chain import ChainMethod, Corrected
from .draws import Draws
from .latent import CoderCost, decoded, gluing, measured, misfit, needs_linear
from .latent_dps import ROUT_2023
from .method import PosteriorPlan
from .prior import Prior
from .problem import Problem
from .registry import posterior_alias, register_posterior
from .stepping import Descent, ddim_share


@register_posterior
@dataclass(frozen=True, kw_only=True)
class PSLD(ChainMethod):
    """Posterior sampling with latent diffusion: a DDIM step, then a gradient step taken where it began.

        z' = step(z) - grad_z { data_weight |y - A D(z0)| + gluing_weight |E(A^+ y + (1 - A^+ A) D(z0)) - z0| }

    For linear operators, and many steps: published with 1000 of them, data_weight 1 and gluing_weight 0.1, and for
    boxes ("psld-box") 0.1 and 0.01. The operator enters with its true adjoint and pseudo-inverse, norms are taken over
    every sample by itself, and no noise is added to A D(z0). Without the second term it is `latent-dps`.

    Reference: Rout et al. 2023 (arXiv 2307.00619).
    """

    data_weight: float = option(1.0, "Weight of the misfit.", low=0)
    gluing_weight: float = option(0.1, "Weight of the gluing term; 0 leaves the encoder out.", low=0)
    loss: str = option("norm", "Misfit: its norm or its square.", choices=("norm", "squared"))
    eta: float = option(0.0, "Fresh noise of the step: 1 ancestral (DDPM), 0 none (DDIM).", low=0, high=1)
    rcond: float = option(0.03, "Singular values below this share of the largest count as 0.", low=0, high=1)

    name: ClassVar[str] = "psld"
    summary: ClassVar[str] = "latents, linear operators; many steps with gradients through decoder and encoder"
    formula: ClassVar[str] = "z' = DDIM(z) - ∇_z { ω ‖y - A D(ẑ₀)‖ + γ ‖E(A⁺y + (I - A⁺A) D(ẑ₀)) - ẑ₀‖ }"
    references: ClassVar[tuple[Reference, ...]] = (ROUT_2023,)
    needs: ClassVar[str] = "forward"
    gradient: ClassVar[bool] = True
    space: ClassVar[str] = "latent"

    def check(self, problem: Problem) -> None:
        if self.gluing_weight > 0:
            needs_linear(problem, self.name, "set gluing_weight to 0, or use latent-dps or stsl with init='noise'")

    def share(self, node: Node, to: Node) -> float:
        return ddim_share(node, to, self.eta)

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        said = prior.trace(x, step.node)
        with torch.enable_grad():
            picture = decoded(problem, said.x0)
            residual = measured(problem, picture)
            loss = self.data_weight * misfit(residual, self.loss)
            if self.gluing_weight > 0:
                loss = loss + self.gluing_weight * gluing(problem, picture, said.x0, self.rcond)
        gradient = said.gradient(loss)
        return Corrected(said.x0.detach(), said.eps, problem.size_of(residual), -gradient)

    def coder_cost(self, plan: PosteriorPlan) -> CoderCost:
        """Evaluations of the decoder and the encoder."""
        calls = self.cost(plan).forward
        glued = calls if self.gluing_weight > 0 else 0
        return CoderCost(calls, glued, calls, glued)


posterior_alias("psld-box", "psld", data_weight=0.1, gluing_weight=0.01)
