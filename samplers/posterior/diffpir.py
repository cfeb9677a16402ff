"""DiffPIR: a proximal step on the data at every noise level; no gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from ..core.process import Node
from .chain import ChainMethod, Corrected, keep_noise
from .draws import Draws
from .prior import Prior
from .problem import Problem
from .references import ZHU_2023
from .registry import posterior_alias, register_posterior
from .stepping import Descent

#: Noise-to-signal ratios above this one are all the same to the proximal step.
LARGEST_RATIO = 1e4


@register_posterior
@dataclass(frozen=True, kw_only=True)
class DiffPIR(ChainMethod):
    """Plug-and-play restoration. With u = sigma / alpha at the present noise level:

        x~0 = argmin_x |y - A x|^2 / sigma_y^2 + prior_weight |x - x0|^2 / u^2
        eps = (x - alpha x~0) / sigma,      x' = alpha' x~0 + sigma' (sqrt(1 - zeta) eps + sqrt(zeta) n)

    Without noise the first line is the projection of DDNM. Use it for deblurring, noisy data, and few steps. Keeping
    the network's eps instead (`kept_noise`; this package's own) brings samples of Gaussian mixtures much closer to the
    posterior; "diffpir-2m" does that with no fresh noise and exponential Adams of order 2 between proximal steps.

    Published settings: prior_weight 3 to 25 by task; zeta 0.1 (deblurring), 0.25 (super-resolution), 1 with 20 steps
    (inpainting); 100 steps, denser at low noise.

    Reference: Zhu et al. 2023 (arXiv 2305.08995).
    """

    prior_weight: float = option(1.0, "Weight of the network's estimate against the data.", low=0, open_low=True)
    zeta: float = option(0.1, "Share of fresh noise, in variance.", low=0, high=1)
    kept_noise: str = option(
        "implied", "Noise that is kept: that implied by the estimate, or the network's.", choices=("implied", "network")
    )
    rcond: float = option(0.03, "Without noise: singular values below this share count as 0.", low=0, high=1)

    name: ClassVar[str] = "diffpir"
    summary: ClassVar[str] = "blur and noise at 20 to 100 steps, no gradients"
    formula: ClassVar[str] = "x̃₀ = argmin ‖y - A x‖²/σ_y² + λ ‖x - x̂₀‖²/u²"
    references: ClassVar[tuple[Reference, ...]] = (ZHU_2023,)

    def share(self, node: Node, to: Node) -> float:
        return math.sqrt(self.zeta)

    def gamma(self, node: Node, sigma_y: float) -> float:
        """Weight of |y - A x|^2 against |x - x0|^2: u^2 / (prior_weight sigma_y^2), infinite without noise."""
        return min(node.ratio, LARGEST_RATIO) ** 2 / (self.prior_weight * sigma_y**2) if sigma_y > 0 else math.inf

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        said = prior(x, step.node)
        x0 = problem.correct(said.x0, self.gamma(step.node, problem.sigma_y), self.rcond)
        residual = problem.size_of(problem.residual(said.x0))
        return keep_noise(self.kept_noise, step, x, x0, said.eps, residual)


posterior_alias("diffpir-2m", "diffpir", zeta=0.0, kept_noise="network", step_sampler="exponential-adams")
