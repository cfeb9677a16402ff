"""RF-Inversion's controlled ODE: Euler steps on a flow that is pulled towards a given end point."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Method, Reference, Spec, State, combine, option
from ..core.process import Linear, Process, ddim

ROUT_2025 = Reference(
    "rout2025rfinversion",
    "Litu Rout and Yujia Chen and Nataniel Ruiz and Constantine Caramanis and Sanjay Shakkottai and Wen-Sheng Chu",
    "Semantic Image Inversion and Editing using Rectified Stochastic Differential Equations",
    2025,
    "2410.10792",
    "International Conference on Learning Representations",
)


@dataclass(frozen=True)
class ControlledStep:
    """x' = base(x, p) + pull * target."""

    base: Linear
    pull: float


@dataclass(frozen=True)
class RFInversion(Method):
    """Euler steps on a velocity that is mixed with the straight way to a target y:

        x' = x + h ((1 - s) v(x, e) + s (y - x) / (e_y - e)).

    From data to noise y is a draw of noise, which belongs to e_y = 1 also where the run ends below it, and s = gamma;
    from noise to data y is the picture, e_y = 0, and s = eta inside a window of the run, 0 outside. s = 0 is Euler,
    s = 1 the straight line to y. It is biased towards the picture, not a reconstruction of the flow. The state holds y,
    so a run starts with ``state=(y,)``. Flow processes only.

    Reference: Rout et al. 2025 (arXiv 2410.10792).
    """

    strength: float = option(0.5, "Share s of the pull towards the target: gamma or eta.", low=0, high=1)
    start: float = option(0.0, "Share of the run's steps after which the pull begins.", low=0, high=1)
    stop: float = option(1.0, "Share of the run's steps at which it ends.", low=0, high=1)

    name: ClassVar[str] = "rf-inversion"
    summary: ClassVar[str] = "Euler, pulled towards a given end point"
    formula: ClassVar[str] = "x' = x + h ((1 - s) v + s (y - x) / (e_y - e))"
    references: ClassVar[tuple[Reference, ...]] = (ROUT_2025,)
    replans: ClassVar[bool] = False

    @property
    def spec(self) -> Spec:
        order = 0 if self.strength else 1
        return Spec(order, order, "any", history=1, operations=4)

    def plan_steps(self, process: Process, grid: Grid) -> tuple[ControlledStep, ...]:
        if not process.slope_mix:
            raise ValueError(
                "RF-Inversion pulls a rectified flow along straight lines; this is not a flow-matching model. "
                "Use ddim or exact inversion for models that predict epsilon"
            )
        end = 0.0 if grid.descending else 1.0  # the level of the target, which may lie beyond the grid
        steps = []
        for k, (node, to) in enumerate(pairwise(grid.nodes)):
            inside = round(self.start * grid.calls) <= k < round(self.stop * grid.calls)
            s = self.strength if inside else 0.0
            pull = s * (to.sigma - node.sigma) / (end - node.sigma)
            steps.append(ControlledStep((1 - s) * ddim(process, node, to) + Linear(s - pull, 0.0), pull))
        return tuple(steps)

    def advance(
        self, step: ControlledStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        if not state:
            raise ValueError("RF-Inversion needs the point it is pulled to: start the run with state=(target,)")
        return combine(step.base, x, prediction, [(step.pull, state[0])]), state
