"""Latent DPS: the misfit of the decoded clean estimate, descended through the decoder and the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from .chain import Corrected
from .dps import DPS
from .draws import Draws
from .latent import CoderCost, decoded, measured, misfit
from .method import PosteriorPlan
from .prior import Prior
from .problem import Problem
from .references import CHUNG_2023
from .registry import posterior_alias, register_posterior
from .stepping import Descent

ROUT_2023 = Reference(
    "rout2023psld",
    "Litu Rout and Negin Raoof and Giannis Daras and Constantine Caramanis and Alexandros G. Dimakis and "
    "Sanjay Shakkottai",
    "Solving Linear Inverse Problems Provably via Posterior Sampling with Latent Diffusion Models",
    2023,
    "2307.00619",
    "NeurIPS",
)


@register_posterior
@dataclass(frozen=True, kw_only=True)
class LatentDPS(DPS):
    """DPS on latents, with a decoder D between them and the pictures.

        z' = step(z) - step_size grad_z |y - A D(z0(z))|

    The settings are those of PSLD, whose first term this is: DDIM steps, a thousand of them as published. It takes any
    differentiable operator, and the network's estimate never leaves the decoder's range, so the residual does not
    reach zero.

    Reference: Chung et al. 2023 (arXiv 2209.14687), on latents as in Rout et al. 2023 (arXiv 2307.00619).
    """

    step_size: float = option(1.0, "Length of the gradient step.", low=0)
    eta: float = option(0.0, "Fresh noise of the step: 1 ancestral (DDPM), 0 none (DDIM).", low=0, high=1)

    name: ClassVar[str] = "latent-dps"
    summary: ClassVar[str] = "latents, any differentiable operator; many steps with gradients"
    formula: ClassVar[str] = "z' = DDIM(z) - ζ ∇_z ‖y - A D(ẑ₀(z))‖"
    references: ClassVar[tuple[Reference, ...]] = (CHUNG_2023, ROUT_2023)
    space: ClassVar[str] = "latent"

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        said = prior.trace(x, step.node)
        with torch.enable_grad():
            residual = measured(problem, decoded(problem, said.x0))
            loss = self.step_size * misfit(residual, self.loss)
        gradient = said.gradient(loss)
        return Corrected(said.x0.detach(), said.eps, problem.size_of(residual), -gradient)

    def coder_cost(self, plan: PosteriorPlan) -> CoderCost:
        """Evaluations of the decoder and the encoder."""
        calls = self.cost(plan).forward
        return CoderCost(decode=calls, decode_backward=calls)


posterior_alias("ldps", "latent-dps")
