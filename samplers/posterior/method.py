"""What a posterior method is: frozen hyper-parameters, a plan of moves, and a step that asks the prior and the data.

A method of the core extrapolates predictions. A posterior method also asks how well a clean estimate explains the
measurement, and may call the network more than once in a step or differentiate through it, so its step is handed the
prior itself (`Prior`, which counts) beside the problem (`Problem`) and the noise (`Draws`). Nothing is stored in the
method: what a run carries is the sample and a state, both passed on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Reference, check_fields
from ..core.process import Node, Process
from .draws import Draws
from .prior import Prior
from .problem import Problem
from .travel import Move, travel

#: What an operator can offer, from little to much; a method declares the least that it needs.
NEEDS = ("forward", "linear", "spectrum")


@dataclass(frozen=True)
class Cost:
    """Network evaluations of a run, whatever the size of the batch."""

    forward: int
    backward: int = 0


@dataclass(frozen=True)
class PosteriorPlan:
    """All moves of one run and their coefficients, made before the first network call.

    Attributes:
        method, process, grid: what the plan was made from.
        moves: from which node to which, in order, time travel included.
        steps: one object of coefficients a move; what it holds is the method's business.
    """

    method: PosteriorMethod
    process: Process
    grid: Grid
    moves: tuple[Move, ...]
    steps: tuple[Any, ...]

    def ends(self, i: int) -> tuple[Node, Node]:
        """The noise levels between which move `i` goes."""
        return self.grid.nodes[self.moves[i].start], self.grid.nodes[self.moves[i].end]


@dataclass(frozen=True)
class Moved:
    """Where a step has taken the run.

    Attributes:
        x: the sample at the end of the move, (B, ...).
        state: what the next step of this method gets back; its business alone.
        x0: the clean estimate that the step used, data taken into account; None on moves that add noise.
        residual: root mean square misfit of the network's estimate *before* that, (B,); None where none was formed.
    """

    x: torch.Tensor
    state: Any = ()
    x0: torch.Tensor | None = None
    residual: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class PosteriorMethod(ABC):
    """A posterior sampler: its fields are its hyper-parameters.

    Subclasses declare `name`, `summary`, `formula`, `references`, `needs`, and give `step`, `plan_steps` and `cost`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    references: ClassVar[tuple[Reference, ...]]
    needs: ClassVar[str] = "linear"  #: least that the operator must offer, one of `NEEDS`
    gradient: ClassVar[bool] = False  #: whether it differentiates through the network
    stochastic: ClassVar[bool] = True  #: whether two seeds give two samples of one start
    space: ClassVar[str] = "pixel"  #: "pixel", or "latent" where a decoder and an encoder are needed
    decodes: ClassVar[bool] = False  #: whether a pixel method also runs in another space, through a decoder

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self, problem: Problem) -> None:
        """Refuse an operator that cannot do what the method needs, with a sentence."""
        if self.needs == "forward":
            return
        operator = problem.linear
        if self.needs == "spectrum" and operator.spectrum(problem.y) is None:
            raise ValueError(
                f"{self.name} needs the singular value decomposition of the operator, and {operator.name} has none; "
                "use diffpir or pigdm"
            )

    def moves(self, grid: Grid) -> tuple[Move, ...]:
        """The moves of a run; one down from node to node unless the method says otherwise."""
        return travel(grid.calls)

    @abstractmethod
    def plan_steps(self, process: Process, grid: Grid, moves: tuple[Move, ...]) -> tuple[Any, ...]:
        """Coefficients of every move."""

    def plan(self, process: Process, grid: Grid) -> PosteriorPlan:
        """Lay out a run. Every coefficient that does not depend on the measurement is computed here, in float64."""
        moves = self.moves(grid)
        return PosteriorPlan(self, process, grid, moves, self.plan_steps(process, grid, moves))

    def start(self, plan: PosteriorPlan, problem: Problem, noise: torch.Tensor) -> torch.Tensor:
        """The sample at the first node from standard normal `noise`: scaled to unit data, hypot(alpha, sigma) noise."""
        node = plan.grid.nodes[0]
        return noise * (node.alpha**2 + node.sigma**2) ** 0.5

    @abstractmethod
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
        """Move `i` of the plan.

        Args:
            plan: of this method.
            i: number of the move, from 0.
            x: sample at the start of the move, (B, ...), float32 or float64; never changed in place.
            prior: the counted network.
            problem: operator, measurement, noise.
            draws: normal noise.
            state: what the step before returned; empty for the first.
        """

    @abstractmethod
    def cost(self, plan: PosteriorPlan) -> Cost:
        """Network evaluations of the whole plan, known beforehand."""

    def finish(self, plan: PosteriorPlan, x: torch.Tensor, problem: Problem) -> torch.Tensor:
        """The result of a run from the sample after its last move."""
        return x
