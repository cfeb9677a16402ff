"""Weights of a multistep formula by least squares, step by step, while a run goes on."""

from __future__ import annotations

import torch

from ..core.grid import Grid
from ..core.method import Plan, State, evaluate
from ..core.process import Process, field_of, slope_coordinate
from .trajectory import Trajectory, at_least_float32


class FittedRun:
    """A method that chooses the weights of every step so that it lands nearest to a converged trajectory.

    At step n, from its own sample x_bar (which may be off already) and its own slopes,

        min over u  ||x_bar* - x_bar - delta (f_n + sum_j u_j (f_{n-j} - f_n))||^2 + ridge delta^2 ||u||^2_D,

    x_bar* being the trajectory at the next noise level, D the diagonal of the normal equations. All samples of a batch
    are fitted together, so a run must be one batch. After the run, `table` holds the rows of `Tuned`.
    """

    def __init__(self, trajectory: Trajectory, history: int = 2, ridge: float = 1e-6) -> None:
        self.trajectory, self.history, self.ridge = trajectory, history, ridge
        self.table: list[tuple[float, ...]] = []

    def plan(self, process: Process, grid: Grid) -> Plan:
        self.process = process
        self.table = []
        return Plan(self, process, grid, grid.nodes[:-1], (None,) * grid.calls)  # type: ignore[arg-type]

    def step(
        self, plan: Plan, i: int, x: torch.Tensor, prediction: torch.Tensor, state: State = ()
    ) -> tuple[torch.Tensor, State]:
        node, to = plan.grid.nodes[i], plan.grid.nodes[i + 1]
        scale, tau = slope_coordinate(plan.process, node)
        scale_to, tau_to = slope_coordinate(plan.process, to)
        working, prediction = at_least_float32(x), at_least_float32(prediction)
        f = evaluate(field_of(plan.process, "slope", node), working, prediction).clone()
        delta = tau_to - tau
        landed = working / scale + delta * f
        changes = [(g - f) * delta for g in state[: self.history]]
        shares: list[float] = []
        if changes:
            target = self.trajectory.at(tau_to) if tau_to > 0 else self.trajectory.end
            matrix = torch.stack([c.flatten() for c in changes]).double()
            normal = matrix @ matrix.T
            normal += torch.diag(self.ridge * normal.diagonal() + 1e-30)
            shares = torch.linalg.solve(normal, matrix @ (target - landed).flatten().double()).tolist()
            for share, change in zip(shares, changes, strict=True):
                landed = landed + share * change
        self.table.append((tau, *shares))
        return (landed * scale_to).to(x.dtype), (f, *state[: self.history - 1])
