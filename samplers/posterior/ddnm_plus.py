"""DDNM+: DDNM for noisy measurements, with as much correction and as much fresh noise as each direction stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..core.method import Reference, option
from .chain import Corrected
from .ddnm import DDNM
from .draws import Draws
from .operators.base import Spectrum
from .prior import Prior
from .problem import Problem
from .references import WANG_2023
from .registry import posterior_alias, register_posterior
from .spectral import Budget, budget, corrected, spectral_noise
from .stepping import Descent


def _flat(s: torch.Tensor) -> bool:
    """Whether all singular values that are not 0 are equal, to rounding."""
    kept = s[s > 1e-6 * s.max()]
    return not len(kept) or bool(kept.max() - kept.min() <= 1e-5 * kept.max())


@register_posterior
@dataclass(frozen=True, kw_only=True)
class DDNMPlus(DDNM):
    """DDNM+ in singular directions (``form="spectral"``), or with one singular value for all (``"scalar"``).

        x~0 = x0 - V gain V^T A^+(A x0 - y),      x' = alpha' x~0 + V noise,

    gains and noise as in `spectral.Budget`: where the noise level sigma' is above what the measurement noise would
    bring in (alpha' sigma_y / s_i) the correction is whole and the noise drawn is what is missing; below, the
    correction is partial. The scalar form takes A^+A for the projector on the measured directions and one s for all of
    them, and is the spectral form where all singular values are equal. Where they differ, A^+ amplifies the noise of
    the small ones far more than one budget allows for. With noise, therefore, an operator whose singular values are
    unknown or differ needs the spectral form, or a `singular_value` that the caller answers for; else use `DiffPIR` or
    `PiGDM`.

    With sigma_y = 0 this is `DDNM`, the same numbers included. renoise = 1 stops correcting at low noise: avoid it. The
    step sampler is the plain move, because the noise budget is made for it.

    Reference: Wang, Yu, Zhang 2023 (arXiv 2212.00490), section 3.3.
    """

    form: str = option(
        "auto", "Singular directions, one value for all, or whichever the operator allows.",
        choices=("auto", "spectral", "scalar"),
    )  # fmt: skip
    singular_value: float | str = option(
        "auto", "Scalar form: the singular value; auto takes the common one.", low=0, open_low=True, words=("auto",)
    )

    name: ClassVar[str] = "ddnm-plus"
    summary: ClassVar[str] = "noisy data, noise budget by singular direction"
    formula: ClassVar[str] = "x̃₀ = x̂₀ - V Λ Vᵀ A⁺(A x̂₀ - y),  (a λᵢ σ_y / sᵢ)² + fresh² = σ'²"
    references: ClassVar[tuple[Reference, ...]] = (WANG_2023,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_sampler != "ddim":
            raise ValueError(
                "ddnm-plus takes its steps by itself, for its noise budget; leave step_sampler at 'ddim', or use "
                "diffpir or ddnm with another one"
            )

    def check(self, problem: Problem) -> None:
        super().check(problem)
        if self.form == "spectral" and problem.linear.spectrum(problem.y) is None:
            raise ValueError(
                f"the spectral form needs the singular values of {problem.operator.name}, which are not known; "
                "use diffpir or pigdm, or form='scalar' with a singular_value of your own"
            )
        if problem.sigma_y == 0 or not isinstance(self.singular_value, str):
            return
        spectrum = problem.linear.spectrum(problem.y)
        if spectrum is None:
            raise ValueError(
                f"ddnm-plus needs the singular values of {problem.operator.name} to divide up the noise, and they are "
                "not known; with sigma_y above 0 use diffpir or pigdm, or give a singular_value"
            )
        if self.form == "scalar" and not _flat(spectrum.s):
            raise ValueError(
                f"the scalar form has one singular value for all directions, and those of {problem.operator.name} "
                "differ; with sigma_y above 0 use form='spectral', diffpir or pigdm, or give a singular_value"
            )

    def _spectrum(self, problem: Problem) -> Spectrum | None:
        return None if self.form == "scalar" else problem.linear.spectrum(problem.y)

    def _scalar(self, step: Descent, x: torch.Tensor, problem: Problem) -> Budget:
        s = self.singular_value
        value = problem.linear.norm(x) if isinstance(s, str) else float(s)
        return budget(x.new_tensor(value), step.to, problem.sigma_y, self._eta(step))

    def _eta(self, step: Descent) -> float:
        return step.fresh

    def _budget(self, step: Descent, spectrum: Spectrum, problem: Problem) -> Budget:
        return budget(spectrum.s, step.to, problem.sigma_y, self._eta(step))

    def _plain(self, step: Descent, problem: Problem) -> bool:
        return problem.sigma_y == 0 or step.to.sigma == 0

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        if problem.sigma_y == 0:
            return super().estimate(step, x, prior, problem, draws)
        said = prior(x, step.node)
        residual = problem.residual(said.x0)
        spectrum = self._spectrum(problem)
        if step.to.sigma == 0:  # no noise to hide the measurement's in: the estimate stays
            x0 = said.x0
        elif spectrum is not None:
            x0 = corrected(spectrum, self._budget(step, spectrum, problem), said.x0, problem.y)
        else:
            gain = self._scalar(step, x, problem).gain
            x0 = said.x0 + gain * problem.linear.A_dagger(residual, self.rcond)
        return Corrected(x0, said.eps, problem.size_of(residual))

    def arrive(
        self, step: Descent, x: torch.Tensor, found: Corrected, prior: Prior, problem: Problem, draws: Draws, state: Any
    ) -> tuple[torch.Tensor, Any]:
        if self._plain(step, problem):
            return super().arrive(step, x, found, prior, problem, draws, state)
        to, eta, normal = step.to, self._eta(step), draws.normal(x)
        spectrum = self._spectrum(problem)
        if spectrum is not None:
            noise = spectral_noise(spectrum, self._budget(step, spectrum, problem), to.sigma, eta, normal, found.eps)
        else:
            fresh = self._scalar(step, x, problem).fresh
            null = eta * to.sigma * normal + math.sqrt(1 - eta**2) * to.sigma * found.eps
            linear = problem.linear
            noise = null + linear.A_dagger(linear.A(fresh * normal - null), self.rcond)
        return to.alpha * found.x0 + noise, state


posterior_alias("ddnm+", "ddnm-plus")
