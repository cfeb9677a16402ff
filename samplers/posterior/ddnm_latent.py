"""Decode, project, encode: DDNM on the decoded picture at every step, mixed back into the latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from ..core.process import Node
from .chain import ChainMethod, Corrected, keep_noise
from .diffpir import LARGEST_RATIO
from .draws import Draws
from .latent import CoderCost, decoded, encoded, measured
from .method import PosteriorPlan
from .prior import Prior
from .problem import Problem
from .references import WANG_2023
from .registry import posterior_alias, register_posterior
from .stepping import Descent, ddim_share

LI_2024 = Reference(
    "li2024omnissr",
    "Runyi Li and Xuhan Sheng and Weiqi Li and Jian Zhang",
    "OmniSSR: Zero-shot Omnidirectional Image Super-Resolution using Stable Diffusion Model",
    2024,
    "2404.10312",
    "ECCV",
)


@register_posterior
@dataclass(frozen=True, kw_only=True)
class LatentDDNM(ChainMethod):
    """Null-space correction of the decoded estimate, no gradients:

        x~ = x + picture_weight A^+(y - A x),   x = clip(D(z0)),      z~0 = (1 - latent_weight) z0 + latent_weight E(x~)

    and the move goes on from z~0. With noise in y the projection gives way to the proximal map
    argmin |y - A x|^2 / sigma_y^2 + |x - D(z0)|^2 / u^2, u = sigma / alpha (this package's own, after DiffPIR). What
    the encoder and the decoder lose between them stays in the residual: finish with a projection of the decoded picture
    where sigma_y = 0. With an orthogonal decoder and both weights 1 it is DDNM.

    Published settings (of the step, within OmniSSR): 200 ancestral steps, latent_weight 0.5, picture_weight 1, and the
    implied noise. The network's, as in `DDNM`, brings samples of Gaussian mixtures much closer to the posterior.

    Reference: Li et al. 2024 (arXiv 2404.10312); Wang, Yu, Zhang 2023 (arXiv 2212.00490).
    """

    latent_weight: float = option(0.5, "Share of the re-encoded picture in the estimate.", low=0, high=1)
    picture_weight: float = option(1.0, "Share of the data correction in the picture.", low=0, high=1)
    clip_picture: bool = option(True, "Clamp the decoded picture to [-1, 1] before the correction.")
    eta: float = option(1.0, "Fresh noise of the step: 1 ancestral (DDPM), 0 none (DDIM).", low=0, high=1)
    renoise: float | None = option(None, "Share of fresh noise at every step instead of eta.", low=0, high=1)
    kept_noise: str = option(
        "network", "Noise that is kept: the network's, or that implied by the estimate.", choices=("network", "implied")
    )
    rcond: float = option(0.03, "Singular values below this share of the largest count as 0.", low=0, high=1)

    name: ClassVar[str] = "ddnm-latent"
    summary: ClassVar[str] = "latents, linear operators, no gradients: decode, project, encode"
    formula: ClassVar[str] = "z̃₀ = (1-γ) ẑ₀ + γ E(x + A⁺(y - A x)),  x = D(ẑ₀)"
    references: ClassVar[tuple[Reference, ...]] = (LI_2024, WANG_2023)
    space: ClassVar[str] = "latent"

    def share(self, node: Node, to: Node) -> float:
        return ddim_share(node, to, self.eta) if self.renoise is None else self.renoise

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        said = prior(x, step.node)
        picture = decoded(problem, said.x0)
        residual = problem.size_of(measured(problem, picture))
        if self.clip_picture:
            picture = picture.clamp(-1, 1)
        ratio = min(step.node.ratio, LARGEST_RATIO)
        gamma = (ratio / problem.sigma_y) ** 2 if problem.sigma_y > 0 else math.inf
        held = problem.correct(picture, gamma, self.rcond)
        back = encoded(problem, torch.lerp(picture, held, self.picture_weight), said.x0)
        x0 = torch.lerp(said.x0, back, self.latent_weight)
        return keep_noise(self.kept_noise, step, x, x0, said.eps, residual)

    def coder_cost(self, plan: PosteriorPlan) -> CoderCost:
        """Evaluations of the decoder and the encoder."""
        calls = self.cost(plan).forward
        return CoderCost(calls, calls)


posterior_alias("decode-project-encode", "ddnm-latent")
