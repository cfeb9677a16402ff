"""Methods that walk down the noise levels, correct the clean estimate at each, and go on: most of them.

A subclass says what the corrected estimate is (`estimate`), and how much of the noise is fresh (`share`). Time travel
and the step sampler between corrections are common to all.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from ..core.grid import Grid
from ..core.method import Method, check_fields, option
from ..core.process import Node, Process
from ..core.registry import resolve
from .draws import Draws
from .method import Cost, Moved, PosteriorMethod, PosteriorPlan
from .prior import Prior
from .problem import Problem
from .stepping import Descent, implied_eps, plan_descents
from .travel import Move, climb, travel

#: Step samplers that the command line offers; Python takes any method of the core, by name or as an object.
STEP_SAMPLERS = ("ddim", "exponential-adams", "adams-bashforth", "ghvb", "heavy-ball", "nesterov", "lml")


@dataclass(frozen=True)
class Corrected:
    """A clean estimate that knows the data.

    Attributes:
        x0: the estimate, (B, ...).
        eps: the noise that is kept in the move.
        residual: root mean square misfit before the correction, (B,).
        shift: added to the sample after the move; None for nothing.
        x: the sample that the move starts from, if the method has moved it at its noise level; None for where it was.
    """

    x0: torch.Tensor
    eps: torch.Tensor
    residual: torch.Tensor
    shift: torch.Tensor | None = None
    x: torch.Tensor | None = None


def keep_noise(
    kept: str, step: Descent, x: torch.Tensor, x0: torch.Tensor, eps: torch.Tensor, residual: torch.Tensor
) -> Corrected:
    """A corrected estimate with the noise that goes on: ``"implied"``, (x - alpha x0) / sigma, or the ``"network"``'s.

    The network's noise does not go with a corrected x0 at x; a step sampler then starts from where they agree,
    alpha x0 + sigma eps.
    """
    if kept == "implied":
        return Corrected(x0, implied_eps(step.node, x, x0), residual)
    return Corrected(x0, eps, residual, x=None if step.plan is None else step.node.alpha * x0 + step.node.sigma * eps)


@dataclass(frozen=True, kw_only=True)
class ChainMethod(PosteriorMethod):
    """A walk down the noise levels, one network call a move.

    With `travel_repeats` above 1 the walk goes back up `travel_length` levels now and then (`travel.travel`). It helps
    where the noise levels are given; if calls are what counts, more noise levels are often the better use of them.
    `step_sampler` is the method that takes the step between two corrections: ``ddim`` for the published ones, or any
    method of the core, by name, by another program's name ("dpm++ 2m") or as an object.
    """

    step_sampler: str | Method = option(  # noqa: RUF009
        "ddim", "Method that steps between two data corrections.", choices=STEP_SAMPLERS
    )
    travel_length: int = option(1, "Time travel: noise levels that a jump goes back up.", low=1)
    travel_repeats: int = option(1, "Time travel: how often each stretch is run; 1 is off.", low=1)

    def __post_init__(self) -> None:
        chosen = self.step_sampler
        if isinstance(chosen, Method) or (isinstance(chosen, str) and chosen not in STEP_SAMPLERS):
            if isinstance(chosen, str):
                resolve(chosen)
            object.__setattr__(self, "step_sampler", "ddim")
            check_fields(self)
            object.__setattr__(self, "step_sampler", chosen)
        else:
            check_fields(self)
        sampler = self.sampler
        if sampler is not None and sampler.spec.calls + sampler.spec.extra_calls != 1:
            raise ValueError(f"a step sampler makes one network call a step, and {sampler.name} makes more")

    @property
    def sampler(self) -> Method | None:
        """The method of the core between corrections; None for the plain move."""
        if isinstance(self.step_sampler, Method):
            return self.step_sampler
        return None if self.step_sampler == "ddim" else resolve(self.step_sampler).method

    @abstractmethod
    def share(self, node: Node, to: Node) -> float:
        """Share of fresh noise in the noise at `to`, in [0, 1]."""

    @abstractmethod
    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        """Call the network at `x`, a sample at `step.node`, and bring in the data."""

    def arrive(
        self, step: Descent, x: torch.Tensor, found: Corrected, prior: Prior, problem: Problem, draws: Draws, state: Any
    ) -> tuple[torch.Tensor, Any]:
        """The sample at the next noise level, and the state of the step sampler."""
        to, fresh = step.to, step.fresh
        if step.plan is None:
            result = to.alpha * found.x0
            if to.sigma > 0:
                result = result + to.sigma * math.sqrt(1 - fresh * fresh) * found.eps
        else:
            result, state = step.plan.method.step(step.plan, step.index, x, found.x0, state)
        if fresh > 0 and to.sigma > 0:
            result = result + to.sigma * fresh * draws.normal(x)
        return result, state

    def moves(self, grid: Grid) -> tuple[Move, ...]:
        return travel(grid.calls, self.travel_length, self.travel_repeats)

    def plan_steps(self, process: Process, grid: Grid, moves: tuple[Move, ...]) -> tuple[Any, ...]:
        shares = {
            n: self.share(node, to) if to.sigma > 0 else 0.0
            for n, (node, to) in enumerate(zip(grid.nodes[:-1], grid.nodes[1:], strict=True))
        }
        return plan_descents(process, grid, moves, shares, self.sampler)

    def step(
        self,
        plan: PosteriorPlan,
        i: int,
        x: torch.Tensor,
        prior: Prior,
        problem: Problem,
        draws: Draws,
        state: Any = (),
    ) -> Moved:
        if plan.moves[i].up:
            return Moved(climb(x, *plan.ends(i), draws.normal(x)))
        step: Descent = plan.steps[i]
        found = self.estimate(step, x, prior, problem, draws)
        begin = x if found.x is None else found.x
        if problem.after is not None:
            settled = problem.settle(found.x0, step.node)
            begin = begin + step.node.alpha * (settled - found.x0)  # the noise stays what it was
            found = dataclasses.replace(found, x0=settled)
        result, state = self.arrive(step, begin, found, prior, problem, draws, state)
        if found.shift is not None:
            result = result + found.shift
        return Moved(result, state, found.x0, found.residual)

    def cost(self, plan: PosteriorPlan) -> Cost:
        down = sum(not move.up for move in plan.moves)
        return Cost(down, down if self.gradient else 0)
