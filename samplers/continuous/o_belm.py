"""O-BELM: a two-step formula that reads the same in both directions, so that an inversion can be undone exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Method, Reference, Spec, Stage, State, combine, evaluate
from ..core.process import Linear, Process, ddim, field_of, slope_coordinate
from ..core.registry import alias, register

WANG_2024 = Reference(
    "wang2024belm",
    "Fangyikang Wang and Hubery Yin and Yuejiang Dong and Huminhao Zhu and Chao Zhang and Hanbin Zhao and Hui Qian "
    "and Chen Li",
    "BELM: Bidirectional Explicit Linear Multi-step Sampler for Exact Inversion in Diffusion Models",
    2024,
    "2410.07273",
    "Advances in Neural Information Processing Systems",
)


@dataclass(frozen=True)
class TwoStep:
    """x' = base(x, p) + before * previous x; alone(x, p) where there is no previous x."""

    base: Linear
    alone: Linear
    before: float


@register
@dataclass(frozen=True)
class OBELM(Method):
    """O-BELM over the edges e_0 ... e_N, with h_k = e_{k+1} - e_k and r = h_k / h_{k-1}:

        x_{k+1} = r^2 x_{k-1} + (1 - r^2) x_k + h_k (1 + r) v_k,      x_1 = x_0 + h_0 v_0.

    Solved for x_{k-1} it is the same formula on the edges read backwards. Who keeps the last *two* states therefore
    comes back along the same states, to rounding, at one call a step and one call less in all; from the last state
    alone it is an ordinary second-order method. On equal steps it is the leapfrog, x_{k+1} = x_{k-1} + 2 h v_k. Written
    for flows, v = dx/dsigma; on other processes x stands for x / alpha and the edges for sigma / alpha.

    Use it to undo an inversion exactly. As a sampler it is weak: errors that alternate from step to step are not
    damped, and where steps grow along the run they grow with (h_k / h_0)^2.

    Reference: Wang et al. 2024 (arXiv 2410.07273), there in the coordinates of epsilon models.
    """

    name: ClassVar[str] = "o-belm"
    summary: ClassVar[str] = "an inversion that can be undone to rounding; weak as a sampler"
    formula: ClassVar[str] = "x_{k+1} = r² x_{k-1} + (1 - r²) x_k + h_k (1 + r) v_k"
    references: ClassVar[tuple[Reference, ...]] = (WANG_2024,)
    replans: ClassVar[bool] = False

    @property
    def spec(self) -> Spec:
        return Spec(2, 2, "any", history=1, operations=3)

    def stages(self, process: Process, grid: Grid) -> tuple[Stage, ...]:
        """Both legs call the network at the same nodes, on the same states."""
        count = grid.calls
        return tuple(
            Stage(node, k if grid.descending else count - k, "node", node) for k, node in enumerate(grid.nodes[:-1])
        )

    def plan_steps(self, process: Process, grid: Grid) -> tuple[TwoStep, ...]:
        coordinates = [slope_coordinate(process, node) for node in grid.nodes]
        steps = []
        for k, (node, to) in enumerate(pairwise(grid.nodes)):
            alone = ddim(process, node, to)
            taus = [tau for _, tau in coordinates[max(k - 1, 0) : k + 2]]
            if k == 0 or not all(map(math.isfinite, taus)):
                steps.append(TwoStep(alone, alone, 0.0))
                continue
            (scale_before, tau_before), (scale, tau), (scale_to, tau_to) = coordinates[k - 1 : k + 2]
            h = tau_to - tau
            r = h / (tau - tau_before)
            stay = Linear(scale_to / scale * (1 - r * r), 0.0)
            base = stay + (scale_to * h * (1 + r)) * field_of(process, "slope", node)
            steps.append(TwoStep(base, alone, scale_to / scale_before * r * r))
        return tuple(steps)

    def advance(
        self, step: TwoStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        if state and step.before:
            return combine(step.base, x, prediction, [(step.before, state[0])]), (x,)
        return evaluate(step.alone, x, prediction), (x,)


alias("obelm", "o-belm")
