"""A converged trajectory of many samples, remembered at all of its noise levels: what tuning learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ..continuous.adams_bashforth import AdamsBashforth
from ..core.grid import CLEAN, Grid
from ..core.method import Plan, State, evaluate
from ..core.process import Process, field_of, slope_coordinate


class Runner(Protocol):
    """Takes the same starting noise to clean data with any method on any noise levels; returns (B, ...).

    `method` needs `plan` and `step` alone, as `Method` has them. A runner must call the network once a step.
    """

    def __call__(
        self, method: Any, levels: Sequence[float], timesteps: Sequence[float] | None = None
    ) -> torch.Tensor: ...


def grid_of(process: Process, levels: Sequence[float], timesteps: Sequence[float] | None = None) -> Grid:
    """Grid of noise levels in the units of `Process.at_sigma`, to clean data.

    `timesteps` is what the network is told at each, if that shall differ from the timestep of the noise level.
    """
    nodes = [process.at_sigma(float(level)) for level in levels]
    if timesteps is not None:
        nodes = [dataclasses.replace(node, timestep=float(t)) for node, t in zip(nodes, timesteps, strict=True)]
    return Grid((*nodes, CLEAN))


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Observed:
    """A method that remembers what it was given: the sample and the network's output of every step."""

    def __init__(self, method: Any) -> None:
        self.method = method
        self.samples: list[torch.Tensor] = []
        self.predictions: list[torch.Tensor] = []

    def plan(self, process: Process, grid: Grid) -> Plan:
        self.process = process
        return self.method.plan(process, grid)

    def step(
        self, plan: Plan, i: int, x: torch.Tensor, prediction: torch.Tensor, state: State = ()
    ) -> tuple[torch.Tensor, State]:
        self.samples.append(x.detach().clone())
        self.predictions.append(prediction.detach().clone())
        return self.method.step(plan, i, x, prediction, state)


@dataclass(frozen=True)
class Trajectory:
    """Samples and slopes along a converged solution, in the coordinate tau in which the ODE is d x_bar / dtau = f.

    Attributes:
        levels: K noise levels, decreasing, in the units of `Process.at_sigma`.
        taus: (K + 1,) their tau (`slope_coordinate`), and 0 for clean data.
        samples: (K + 1, B, ...) x_bar, the sample over its scale; the last one is clean data.
        slopes: (K, B, ...) f.
    """

    levels: tuple[float, ...]
    taus: np.ndarray
    samples: torch.Tensor
    slopes: torch.Tensor

    @property
    def end(self) -> torch.Tensor:
        """Clean data (B, ...)."""
        return self.samples[-1]

    def at(self, tau: float) -> torch.Tensor:
        """x_bar at any tau between two levels, by the cubic through both samples and both slopes."""
        k = int(np.searchsorted(-self.taus, -tau, side="right")) - 1
        k = min(max(k, 0), len(self.levels) - 1)
        t0, t1 = float(self.taus[k]), float(self.taus[k + 1])
        if tau == t0:
            return self.samples[k]
        h, r = t1 - t0, (tau - t0) / (t1 - t0)
        if k == len(self.levels) - 1:  # there is no slope at clean data
            return torch.lerp(self.samples[k], self.samples[k + 1], r)
        start, stop = self.samples[k], self.samples[k + 1]
        s2, s3 = r * r, r * r * r
        return (
            start * (2 * s3 - 3 * s2 + 1)
            + stop * (3 * s2 - 2 * s3)
            + self.slopes[k] * (h * (s3 - 2 * s2 + r))
            + self.slopes[k + 1] * (h * (s3 - s2))
        )


def record(runner: Runner, process: Process, first: float, last: float, count: int, rho: float = 7.0) -> Trajectory:
    """Run second-order Adams-Bashforth over `count` noise levels from `first` to `last` and remember all of it.

    The levels are equally spaced in sigma^(1/rho) (Karras et al. 2022), so that neighbours are close on either end.
    """
    if count < 8:
        raise ValueError(f"a converged trajectory needs at least 8 noise levels, got {count}")
    ramp = np.linspace(0, 1, count)
    levels = (first ** (1 / rho) + ramp * (last ** (1 / rho) - first ** (1 / rho))) ** rho
    levels[0], levels[-1] = first, last
    watch = Observed(AdamsBashforth(order=2, weights="variable"))
    end = runner(watch, tuple(levels))
    grid = grid_of(process, levels)
    samples, slopes = [], []
    for node, x, prediction in zip(grid.nodes, watch.samples, watch.predictions, strict=False):
        scale, _ = slope_coordinate(watch.process, node)
        x, prediction = at_least_float32(x), at_least_float32(prediction)
        samples.append(x / scale)
        slopes.append(evaluate(field_of(watch.process, "slope", node), x, prediction).clone())
    taus = np.array([slope_coordinate(process, node)[1] for node in grid.nodes])
    if len(samples) != count or not np.isfinite(taus).all():
        raise ValueError(
            "tuning needs a run with one network call for each noise level, from a finite first level: "
            f"{len(samples)} calls were seen for {count} levels from {first:g}"
        )
    samples.append(at_least_float32(end))
    return Trajectory(tuple(map(float, levels)), taus, torch.stack(samples), torch.stack(slopes))
