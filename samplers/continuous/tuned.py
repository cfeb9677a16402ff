"""A sampler made for one model: noise levels and weights that were fitted to its own trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import LinearStep, Method, Reference, Spec, State, advance_linear, linear_steps
from ..core.method import table as fitted_numbers
from ..core.process import Process, field_of, slope_coordinate
from ..core.registry import register
from .adams_bashforth import slope_weights

CHEN_2024 = Reference(
    "chen2024gits",
    "Defang Chen and Zhenyu Zhou and Can Wang and Chunhua Shen and Siwei Lyu",
    "On the Trajectory Regularity of ODE-based Diffusion Sampling",
    2024,
    "2405.11326",
    "International Conference on Machine Learning",
)

SHAUL_2024 = Reference(
    "shaul2024bespoke",
    "Neta Shaul and Uriel Singer and Ricky T. Q. Chen and Matthew Le and Ali Thabet and Albert Pumarola and "
    "Yaron Lipman",
    "Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models",
    2024,
    "2403.01329",
    "International Conference on Machine Learning",
)

#: One row a network call: where it is made (tau, see `slope_coordinate`), then the shares u_1, ... of earlier slopes.
Row = tuple[float, ...]


def _rows(table: Sequence[Sequence[Sequence[float]]]) -> tuple[tuple[Row, ...], ...]:
    try:
        made = tuple(tuple(tuple(float(value) for value in row) for row in run) for run in table)
    except (TypeError, ValueError):
        raise ValueError("table must be a list of runs, each a list of rows of numbers") from None
    for run in made:
        if not all(row and all(map(math.isfinite, row)) for row in run):
            raise ValueError("a row of the table is one noise level and some weights, all of them finite numbers")
        if any(len(row) > n + 1 for n, row in enumerate(run)):
            raise ValueError("a row of the table has more weights than there are calls before it")
        if any(a[0] <= b[0] for a, b in pairwise(run)):
            raise ValueError("the noise levels of a run in the table must decrease")
    return made


def _gains(gains: Sequence[Sequence[float]], table: Sequence[Sequence[Row]]) -> tuple[tuple[float, ...], ...]:
    try:
        made = tuple(tuple(float(value) for value in run) for run in gains)
    except (TypeError, ValueError):
        raise ValueError("gains must be a list of runs, each a list of one number a step") from None
    if not all(math.isfinite(value) for run in made for value in run):
        raise ValueError("gains must be finite numbers")
    if made and [len(run) for run in made] != [len(run) for run in table]:
        raise ValueError("gains must have one number for every row of the table")
    return made


@register
@dataclass(frozen=True)
class Tuned(Method):
    """Adams-Bashforth whose weights were fitted to a model's own trajectories, on noise levels placed for it.

    With x_bar = x / scale and the slope f over tau (sigma / alpha on VP and EDM, sigma on flow),

        x_bar' = x_bar + (tau' - tau) (g f_n + u_1 (f_{n-1} - f_n) + u_2 (f_{n-2} - f_n) + ...),

    where g and the u are numbers of the step at hand, found by ``fewstep tune`` (see `fewstep.samplers.tuning`): the
    noise levels by a dynamic programme over a converged trajectory, in the manner of GITS, the weights by least
    squares. With as many weights as there are earlier calls this is every explicit linear method there is, single-step
    ones too. Where g = 1, as it is unless told otherwise, a constant slope stays exact whatever the weights are; in a
    few large steps a g below 1 can pay, since the mean of what a step may lead to is shorter than its slope. The fit
    holds for the model, the guidance and the numbers of calls that it was made for, and the table says nothing about
    others: on noise levels that are not in the table, or where a run starts in the middle and the history is missing,
    the weights are those of the second-order Adams-Bashforth formula on the grid at hand, which is also all that an
    empty table does.

    References: Chen et al. 2024 (arXiv 2405.11326) for the dynamic programme; Shaul et al. 2024 (arXiv 2403.01329) for
    solvers of this form fitted end to end (there by gradients, here by least squares and Gauss-Newton).
    """

    table: tuple[tuple[Row, ...], ...] = fitted_numbers(
        "Noise levels and weights by step, as `fewstep tune` writes them."
    )
    gains: tuple[tuple[float, ...], ...] = fitted_numbers("Factor g of the slope by step; empty: 1.")

    name: ClassVar[str] = "tuned"
    summary: ClassVar[str] = "fitted to one model by `fewstep tune`: the smallest error there, at no extra calls"
    formula: ClassVar[str] = "x̄' = x̄ + δ (g f_n + Σ u_j (f_{n-j} - f_n)),  g and u fitted"
    references: ClassVar[tuple[Reference, ...]] = (CHEN_2024, SHAUL_2024)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "table", _rows(self.table))
        object.__setattr__(self, "gains", _gains(self.gains, self.table))

    @property
    def order(self) -> int:
        """Slopes that a step combines, at least 2; the order of the error is not more than 2."""
        return max([2, *(len(row) for run in self.table for row in run)])

    @property
    def spec(self) -> Spec:
        return Spec(2, 2, "any", history=self.order - 1, operations=self.order + 2)

    def weights(self, process: Process, grid: Grid) -> tuple[list[float], list[list[float]]]:
        """g, and u_1, u_2, ..., of every step of a run on `grid`: fitted where the table has them, else those of
        Adams-Bashforth 2."""
        taus = [slope_coordinate(process, node)[1] for node in grid.nodes[:-1]]
        fitted: tuple[Row, ...] = ()
        gains = [1.0] * grid.calls
        for k, run in enumerate(self.table):
            tail = run[len(run) - len(taus) :] if len(run) >= len(taus) else ()
            if tail and all(math.isclose(row[0], tau, rel_tol=1e-4) for row, tau in zip(tail, taus, strict=True)):
                fitted = tail
                gains = list(self.gains[k][len(run) - len(taus) :]) if self.gains else [1.0] * grid.calls
        found = []
        for n in range(grid.calls):
            row = list(fitted[n][1:]) if fitted else []
            if not row or len(row) > n:
                row = slope_weights(process, grid, n, 2, "variable")[0][1:]
            found.append(row)
        return gains, found

    def plan_steps(self, process: Process, grid: Grid) -> tuple[LinearStep, ...]:
        gains, shares = self.weights(process, grid)

        def reach(n: int) -> float:
            return slope_weights(process, grid, n, 1, "fixed")[1]

        steps = linear_steps(
            process, grid, "slope", self.spec.history, lambda n: [reach(n) * share for share in shares[n]]
        )
        return tuple(
            step if g == 1 else replace(step, base=step.base + (g - 1) * reach(n) * field_of(process, "slope", node))
            for n, (step, g, node) in enumerate(zip(steps, gains, grid.nodes, strict=False))
        )

    def advance(
        self, step: LinearStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        return advance_linear(step, x, prediction, state)
