"""Methods that call the network between the edges of the grid: an interval is a list of stages, a stage is one call.

A stage lies at a point that was *predicted* from the last finished state with an earlier slope. Once the network has
said the slope f there, the part of the way already made is corrected to it and the run goes on to the next stage. With
x_bar = x / scale and tau the coordinates in which the ODE reads dx_bar/dtau = f (`slope_coordinate`), b the state's
place, s the stage's and s' the next one's,

    x_bar' = x_bar + (tau(s') - tau(s)) f + (tau(s) - tau(b)) (f - f_before),

one first-order step and one weighted difference, as for every other method of this package. The sample that a run
carries is the one the network sees, so whatever is added to it from outside counts in full; where the earlier slope is
missing (a run that begins in the middle) or the place is infinite (pure noise), the difference is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from .grid import Grid
from .method import Method, State, combine, evaluate
from .process import Linear, Node, Process, ddim, field_of, slope_coordinate


@dataclass(frozen=True)
class StageStep:
    """x' = base(x, p) + weight * state[0], or alone(x, p) without a state; then keep ``slope(x, p)``."""

    base: Linear
    alone: Linear
    weight: float
    slope: Linear


def midpoint(process: Process, node: Node, to: Node) -> Node:
    """The noise level in the middle of an interval, in the coordinate of the slope; beside pure noise, in its angle.

    The angle is arctan(tau); it is finite where tau is not. Beside clean data it is not below the lowest noise level
    that the network can be told (training timestep 0); it may be the noisier end of the interval itself.
    """
    tau, tau_to = slope_coordinate(process, node)[1], slope_coordinate(process, to)[1]
    if math.isinf(tau) or math.isinf(tau_to):
        return process.at_sigma(math.tan((math.atan(tau) + math.atan(tau_to)) / 2))
    middle = process.at_sigma((tau + tau_to) / 2)
    if process.slope_mix:  # the timestep of a flow is linear in sigma, also where somebody told the edges' own
        return Node((node.timestep + to.timestep) / 2, middle.alpha, middle.sigma)
    lowest = process.at(middle.timestep)
    if lowest.ratio <= middle.ratio * (1 + 1e-6):
        return middle
    noisier = max(node, to, key=lambda n: n.ratio)
    return lowest if lowest.ratio < noisier.ratio * (1 - 1e-6) else noisier


@dataclass(frozen=True)
class StagedMethod(Method):
    """A method that is wholly said by its `stages`; state: the slope of the stage before, if there was one."""

    replans: ClassVar[bool] = False

    def plan_steps(self, process: Process, grid: Grid) -> tuple[StageStep, ...]:
        stages = self.stages(process, grid)
        steps = []
        nodes = [*(stage.node for stage in stages), grid.nodes[-1]]
        for stage, (node, to) in zip(stages, pairwise(nodes), strict=True):
            alone = ddim(process, node, to)
            slope = field_of(process, "slope", node)
            scale, _ = slope_coordinate(process, to)
            made = slope_coordinate(process, node)[1] - slope_coordinate(process, stage.base)[1]
            weight = scale * made if stage.base is not node and math.isfinite(made) else 0.0
            steps.append(StageStep(alone + weight * slope, alone, -weight, slope))
        return tuple(steps)

    def advance(
        self, step: StageStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        if state and step.weight:
            result = combine(step.base, x, prediction, [(step.weight, state[0])])
        else:
            result = evaluate(step.alone, x, prediction)
        return result, (evaluate(step.slope, x, prediction),)
