"""DDRM: posterior sampling in the singular directions of the operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..core.method import Reference, option
from ..core.process import Node
from .chain import ChainMethod, Corrected
from .draws import Draws
from .operators.base import Spectrum
from .prior import Prior
from .problem import Problem
from .references import KAWAR_2022
from .registry import register_posterior
from .spectral import Budget, budget, corrected, spectral_noise
from .stepping import Descent


@register_posterior
@dataclass(frozen=True, kw_only=True)
class DDRM(ChainMethod):
    """Denoising diffusion restoration model. With sigma = sigma' / alpha' at the next level, per singular direction:

        null space           x0 + sqrt(1 - renoise^2) sigma eps + renoise sigma n
        s_i sigma < sigma_y  x0 + sqrt(1 - renoise^2) sigma (y_i / s_i - x0) s_i / sigma_y + renoise sigma n
        s_i sigma >= sigma_y (1 - eta_b) x0 + eta_b y_i / s_i + sqrt(sigma^2 - eta_b^2 sigma_y^2 / s_i^2) n

    times alpha'. With eta_b = 1 and noise this is the spectral form of `ddnm-plus`; without noise it differs from DDNM
    in drawing all the noise of the measured directions afresh. Made for about 20 steps.

    Reference: Kawar, Elad, Ermon, Song 2022 (arXiv 2201.11793).
    """

    renoise: float = option(0.85, "Share of the noise that is drawn afresh at every step.", low=0, high=1)
    eta_b: float = option(1.0, "Share of the correction where the sample is noisier than y.", low=0, high=1)
    rcond: float = option(1e-3, "Singular values below this share of the largest count as 0.", low=0, high=1)

    name: ClassVar[str] = "ddrm"
    summary: ClassVar[str] = "few steps where the singular values are known"
    formula: ClassVar[str] = "x̄ᵢ' = (1-η_b) x̂₀ᵢ + η_b ȳᵢ + √(σ'² - η_b² σ_y² / sᵢ²) n,  s σ' ≥ σ_y"
    references: ClassVar[tuple[Reference, ...]] = (KAWAR_2022,)
    needs: ClassVar[str] = "spectrum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_sampler != "ddim":
            raise ValueError("ddrm takes its steps by itself; leave step_sampler at 'ddim', or use diffpir or ddnm")

    def share(self, node: Node, to: Node) -> float:
        return self.renoise

    def _plan(self, step: Descent, problem: Problem) -> tuple[Spectrum, Budget]:
        spectrum = problem.linear.spectrum(problem.y)
        assert spectrum is not None
        gains = budget(spectrum.s, step.to, problem.sigma_y, self.renoise, self.eta_b, self.rcond)
        return spectrum, gains

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        said = prior(x, step.node)
        spectrum, gains = self._plan(step, problem)
        x0 = corrected(spectrum, gains, said.x0, problem.y)
        return Corrected(x0, said.eps, problem.size_of(problem.residual(said.x0)))

    def arrive(
        self, step: Descent, x: torch.Tensor, found: Corrected, prior: Prior, problem: Problem, draws: Draws, state: Any
    ) -> tuple[torch.Tensor, Any]:
        result = step.to.alpha * found.x0
        if step.to.sigma > 0:
            spectrum, gains = self._plan(step, problem)
            normal = draws.normal(x)
            result = result + spectral_noise(spectrum, gains, step.to.sigma, self.renoise, normal, found.eps)
        return result, state
