"""First-hitting sampling: one token a call at a random place, which is the model's law exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ..core.method import Reference
from .ctmc import MaskedProcess, TokenProcess
from .grid import TokenGrid
from .kernels import Jump
from .method import Call, Rows, TokenMethod, TokenPlan

ZHENG_2024 = Reference(
    "zheng2024masked",
    "Zheng, K. and Chen, Y. and Mao, H. and Liu, M.-Y. and Zhu, J. and Zhang, Q.",
    "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate Categorical Sampling",
    2024,
    "2409.02908",
)


@dataclass(frozen=True)
class FirstHitting(TokenMethod):
    """The n masks left are revealed one by one: the next at mask ratio m u^(1/n), u uniform, at a random place.

    The model never draws two tokens together, so the law is exact for an exact model, at as many calls as masks. With
    fewer calls each reveals its even share of the masks left, which is first order, like `Tweedie`; with more, some
    calls reveal nothing.

    Reference: Zheng et al. 2024 (arXiv 2409.02908).
    """

    name: ClassVar[str] = "first-hitting"
    summary: ClassVar[str] = "exact, at one call a token"
    formula: ClassVar[str] = "m' = m u^{1/n}, one token"
    references: ClassVar[tuple[Reference, ...]] = (ZHENG_2024,)

    @property
    def order(self) -> int:
        return 1

    @property
    def reveal(self) -> str:
        return "balanced"

    def check(self, process: TokenProcess) -> None:
        if not isinstance(process, MaskedProcess):
            raise ValueError("first-hitting sampling is for masks; uniform noise has no last event of a token")

    def chance(self, process: TokenProcess, call: Call) -> float | None:
        return 1.0 / call.left

    def jump(
        self, process: TokenProcess, call: Call, now: Rows, past: Rows | None, beta: torch.Tensor | None = None
    ) -> Jump:
        return Jump(torch.full_like(now.p[:, 0], 1.0 / call.left), now.p)

    def plan(
        self,
        process: TokenProcess,
        grid: TokenGrid | None = None,
        *,
        steps: int | None = None,
        calls: int | None = None,
        generator: torch.Generator | None = None,
    ) -> TokenPlan:
        """One call a step, at the hitting times: drawn if there is a generator, else at their means."""
        plan = super().plan(process, grid, steps=steps, calls=calls)
        assert isinstance(process, MaskedProcess)
        m, times = process.schedule.mask_ratio(plan.calls[0].start), []
        for call in plan.calls:
            if generator is None:
                m *= call.left / (call.left + 1)
            else:
                u = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device).item()
                m *= max(u, 1e-300) ** (1 / call.left)
            times.append(process.schedule.time(m))
        ends = [*times[1:], 0.0]
        done = [replace(c, time=t, start=t, to=e, end=e) for c, t, e in zip(plan.calls, times, ends, strict=True)]
        return TokenPlan(self, process, tuple(done))
