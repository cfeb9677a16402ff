"""theta-RK-2: a midpoint rule that starts again from the beginning of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from .ctmc import MaskedProcess, TokenProcess, UniformProcess
from .kernels import KERNELS, Jump
from .method import REN_2025, Call, Rows, TokenMethod, closed, length


def between_clock(process: TokenProcess, start: float, end: float, theta: float) -> float:
    """t that lies the share `theta` of the clock from `start` to `end`."""
    clock = process.clock(start) - theta * length(process, start, end)
    if isinstance(process, UniformProcess):
        return process.schedule.time(-torch.expm1(torch.tensor(-clock, dtype=torch.float64)).item())
    return clock


@dataclass(frozen=True)
class ThetaRK2(TokenMethod):
    """theta-RK-2 of Ren et al.:

        x*      by tau-leaping over theta Delta
        x_e     from x_s again, over Delta,
                lambda_v = Delta 1[mu_s(v) > 0] ((1 - 1/(2 theta)) mu_s + mu_rho(x*) / (2 theta))_+

    A baseline: for the joint law of tokens it is first order at every theta, and on masks no better at equal steps than
    tau-leaping, which needs half the calls. A token that the predictor reveals is masked again.

    Reference: Ren et al. 2025 (arXiv 2502.00234).
    """

    theta: float = option(
        0.5, "Place of the second call: 1/2 midpoint, 2/3 Ralston, 1 Heun.", low=0, high=1, open_low=True
    )
    conflict: str = option("any", "Which of two events on one token counts.", choices=tuple(KERNELS))

    name: ClassVar[str] = "theta-rk2"
    summary: ClassVar[str] = "the published baseline: two calls, first order for tokens"
    formula: ClassVar[str] = "λ = Δ ((1-1/2θ) μ_s + μ_ρ*/2θ)_+ from x_s"
    references: ClassVar[tuple[Reference, ...]] = (REN_2025,)
    stages: ClassVar[int] = 2
    restarts: ClassVar[bool] = True

    @property
    def order(self) -> int:
        return 1

    def fills(self, process: TokenProcess) -> bool:
        return isinstance(process, MaskedProcess)

    def between(self, process: TokenProcess, start: float, end: float) -> float:
        return between_clock(process, start, end, self.theta)

    def jump(
        self, process: TokenProcess, call: Call, now: Rows, past: Rows | None, beta: torch.Tensor | None = None
    ) -> Jump:
        step = length(process, call.start, call.end)
        here = closed(process.rates(now.p, now.tokens, call.time), now)
        if past is None:
            return KERNELS[self.conflict](self.theta * step * here)
        first = closed(process.rates(past.p, past.tokens, call.start), past)
        weight = 1 / (2 * self.theta)
        rates = torch.where(first > 0, (1 - weight) * first + weight * here, 0.0).clamp_min(0.0)
        return KERNELS[self.conflict](step * rates)
