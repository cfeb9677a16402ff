"""theta-trapezoidal: two calls a step, second order in the joint law of the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from .ctmc import MaskedProcess, TokenProcess
from .kernels import KERNELS, Jump
from .method import REN_2025, Call, Rows, TokenMethod, closed, interval_chance, length
from .theta_rk2 import between_clock


@dataclass(frozen=True)
class ThetaTrapezoidal(TokenMethod):
    """theta-trapezoidal of Ren et al., and its exact-interval form for masks.

        rate     x* by tau-leaping over theta Delta; then from x*,
                 lambda_v = Delta (w1 mu_rho(v | x*) - w2 mu_s(v | x))_+,
                 w1 = 1 / (2 theta),  w2 = ((1 - theta)^2 + theta^2) / (2 theta)
        exact    reveal with (m_s - m_rho) / m_s, value from p; then with (m_rho - m_e) / m_rho, value from
                 q = (a1 p(v | x*) - a2 p(v | x))_+, normalised,  a1 = 1 / (2 theta (1 - theta)),  a2 = a1 - 1

    Two tokens revealed in the same stage are drawn independently; those in different stages carry their dependence
    a1-fold, which makes up for it. The exact form (this package's own) has no error from the time steps of the mask
    ratio and leaves no mask. Order two where the positive part is never taken; under strong dependence it is, and both
    forms fall back to order one (then see `TokenAdamsBashforth`). theta = 1/2 takes it least. Uniform noise has the
    rate form only.

    References: Ren et al. 2025 (arXiv 2502.00234); Hu, Li, Min 2011 (doi 10.1063/1.3609119).
    """

    theta: float = option(0.5, "Place of the second call in the step.", low=0, high=1, open_low=True)
    stage_probability: str = option(
        "exact", "Exact intervals of the mask ratio, or rates as published.", choices=("exact", "rate")
    )
    conflict: str = option("any", "Which of two events on one token counts, in rate form.", choices=tuple(KERNELS))

    name: ClassVar[str] = "theta-trapezoidal"
    summary: ClassVar[str] = "two calls a step, second order where dependence is mild"
    formula: ClassVar[str] = "q ∝ (α₁ p* - α₂ p)_+"
    references: ClassVar[tuple[Reference, ...]] = (REN_2025,)
    stages: ClassVar[int] = 2

    def _exact(self, process: TokenProcess) -> bool:
        return self.stage_probability == "exact" and isinstance(process, MaskedProcess)

    @property
    def order(self) -> int:
        return 1 if self.theta == 1 or self.conflict == "euler" else 2

    def fills(self, process: TokenProcess) -> bool:
        return isinstance(process, MaskedProcess) and not self._exact(process)

    def check(self, process: TokenProcess) -> None:
        if self._exact(process) and self.theta >= 1:
            raise ValueError(f"theta must be in (0, 1) with exact intervals, got {self.theta!r}")

    def between(self, process: TokenProcess, start: float, end: float) -> float:
        if not self._exact(process):
            return between_clock(process, start, end, self.theta)
        assert isinstance(process, MaskedProcess)
        m = process.ratio(start)
        return process.schedule.time(m - self.theta * (m - process.ratio(end)))

    def chance(self, process: TokenProcess, call: Call) -> float | None:
        if not self._exact(process):
            return None
        assert isinstance(process, MaskedProcess)
        return interval_chance(process, call.time, call.to)

    def jump(
        self, process: TokenProcess, call: Call, now: Rows, past: Rows | None, beta: torch.Tensor | None = None
    ) -> Jump:
        theta = self.theta
        if self._exact(process):
            chance = self.chance(process, call)
            move = torch.full_like(now.p[:, 0], 0.0 if chance is None else chance)
            if past is None:
                return Jump(move, now.p)
            a1 = 1 / (2 * theta * (1 - theta))
            return Jump(move, (a1 * now.p - (a1 - 1) * past.p).clamp_min(0.0))
        step = length(process, call.start, call.end)
        here = closed(process.rates(now.p, now.tokens, call.time), now)
        if past is None:
            return KERNELS[self.conflict](theta * step * here)
        first = closed(process.rates(past.p, past.tokens, call.start), past)
        w1, w2 = 1 / (2 * theta), ((1 - theta) ** 2 + theta**2) / (2 * theta)
        rates = (w1 * here - w2 * first).clamp_min(0.0)
        if not isinstance(process, MaskedProcess):
            rates = rates.scatter(-1, now.tokens[:, None], 0.0)
        return KERNELS[self.conflict](step * rates)
