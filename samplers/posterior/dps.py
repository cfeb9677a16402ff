"""DPS: descend the misfit of the clean estimate, through the network."""

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
from .references import CHUNG_2023
from .registry import register_posterior
from .stepping import Descent, ddim_share, implied_eps


@register_posterior
@dataclass(frozen=True, kw_only=True)
class DPS(ChainMethod):
    """Diffusion posterior sampling: an unconditional step, then a gradient step taken where it began.

        x' = step(x) - step_size grad_x |y - A x0(x)|            (``loss="norm"``, the norm of every sample)
        x' = step(x) - step_size grad_x |y - A x0(x)|^2          (``loss="squared"``)

    It needs nothing of A but a gradient, so nonlinear operators are welcome, and many steps: step sizes of 0.3
    (super-resolution, blurs) to 0.5 (inpainting) and 1 (phase retrieval) are for 1000 of them at 256 x 256 pixels.
    Not exact, even for a Gaussian prior. The step's noise is the one implied by x0, so that a clamped x0 and its noise
    go together. With a differentiable decoder D it samples latents, with A D in the place of A.

    Reference: Chung et al. 2023 (arXiv 2209.14687).
    """

    step_size: float = option(0.3, "Length of the gradient step.", low=0)
    loss: str = option("norm", "Misfit: its norm or its square.", choices=("norm", "squared"))
    eta: float = option(1.0, "Fresh noise of the step: 1 ancestral (DDPM), 0 none (DDIM).", low=0, high=1)

    name: ClassVar[str] = "dps"
    summary: ClassVar[str] = "any differentiable operator; many steps with gradients"
    formula: ClassVar[str] = "x' = DDPM(x) - ζ ∇ₓ ‖y - A x̂₀(x)‖"
    references: ClassVar[tuple[Reference, ...]] = (CHUNG_2023,)
    needs: ClassVar[str] = "forward"
    gradient: ClassVar[bool] = True
    decodes: ClassVar[bool] = True

    def share(self, node: Node, to: Node) -> float:
        return ddim_share(node, to, self.eta)

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        said = prior.trace(x, step.node)
        with torch.enable_grad():
            residual = problem.residual(said.x0)
            flat = residual.flatten(1)
            loss = torch.linalg.vector_norm(flat, dim=1) if self.loss == "norm" else flat.square().sum(1)
        gradient = said.gradient(loss)
        x0 = said.x0.detach()
        eps = implied_eps(step.node, x, x0)
        return Corrected(x0, eps, problem.size_of(residual), -self.step_size * gradient)
