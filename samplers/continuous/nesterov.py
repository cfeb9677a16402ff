"""Nesterov momentum on Adams-Bashforth: the averaged slope, corrected by the slope at hand."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Method, Reference, Spec, State, option
from ..core.process import Process
from ..core.registry import register
from .heavy_ball import WIZADWONGSA_2023, HeavyBall, VelocityStep, advance_velocity


@register
@dataclass(frozen=True)
class Nesterov(Method):
    """Nesterov (NT) on Adams-Bashforth of order `order`, damping beta:

        v' = (1 - beta) v + beta a_n,      slope used = (1 - beta) v' + beta a_n = (2 - beta) v' - (1 - beta) v.

    beta = 1 is Adams-Bashforth. Below 1 the order is 1, with a smaller error than heavy ball's (error / DDIM's error
    -> 2 (1 - beta)^2 / beta) and a smaller stable range. Its region is wider along the imaginary axis.

    Reference: Wizadwongsa et al. 2023 (arXiv 2307.11118), appendix; Nesterov 1983.
    """

    order: int = option(2, "Order of the Adams-Bashforth base.", low=1, high=4)
    damping: float = option(0.8, "beta: share of the slope at hand; 1 is no momentum.", low=0, high=1, open_low=True)

    name: ClassVar[str] = "nesterov"
    summary: ClassVar[str] = "between Adams-Bashforth and heavy ball; first order"
    formula: ClassVar[str] = "v' = (1-β) v + β a_n,  x̄' = x̄ + δ ((1-β) v' + β a_n)"
    references: ClassVar[tuple[Reference, ...]] = (WIZADWONGSA_2023,)

    @property
    def spec(self) -> Spec:
        full = self.damping == 1.0
        reached = self.order if full else 1
        needs = "equal steps" if reached > 2 else "any"
        return Spec(reached, min(reached, 2), needs, history=self.order, operations=self.order + 4)

    def plan_steps(self, process: Process, grid: Grid) -> tuple[VelocityStep, ...]:
        steps = HeavyBall(order=self.order, damping=self.damping).plan_steps(process, grid)
        return tuple(dataclasses.replace(s, gain=s.gain * (1 + s.keep), gain_old=-s.gain * s.keep) for s in steps)

    def advance(
        self, step: VelocityStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        return advance_velocity(step, x, prediction, state)
