"""Tuning from end to end: trajectory, dynamic programme, fitted weights, refinement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core.method import Method
from ..core.process import Process
from .fitting import FittedRun
from .programme import best_levels, local_errors
from .refining import Candidate, cauchy, distance, knee_of, refine, timesteps_of
from .trajectory import Runner, Trajectory

#: Exponents of the contraction that are tried in the dynamic programme (`best_levels`).
POWERS = (0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
#: Up to so many calls a step uses all earlier slopes, at a latent of memory for each; above it, `HISTORY` of them.
FULL_HISTORY_UP_TO = 8
HISTORY = 2
#: Up to so many calls the refinement moves the weights as well as the levels; above it that would cost too many runs.
FREE_WEIGHTS_UP_TO = 20


@dataclass(frozen=True)
class Tuning:
    """What tuning found for one number of network calls.

    Attributes:
        levels: noise levels in the units of `Process.at_sigma`, the first being that of the trajectory.
        timesteps: what the network is told at each.
        table: rows of `Tuned` for them; empty if a method was given.
        gains: of `Tuned`, one a step.
        error: root mean square distance to the converged run on the tuning samples.
        start: where the levels came from before they were refined, in words.
        calls: network calls of a whole batch that finding it cost, the trajectory's not counted.
    """

    levels: tuple[float, ...]
    timesteps: tuple[float, ...]
    table: tuple[tuple[float, ...], ...]
    gains: tuple[float, ...]
    error: float
    start: str
    calls: int


class _Counted:
    def __init__(self, runner: Runner) -> None:
        self.runner, self.calls = runner, 0

    def __call__(
        self, method: object, levels: Sequence[float], timesteps: Sequence[float] | None = None
    ) -> torch.Tensor:
        self.calls += len(levels)
        return self.runner(method, levels, timesteps)


def tune(
    runner: Runner,
    process: Process,
    trajectory: Trajectory,
    calls: int,
    *,
    method: Method | None = None,
    errors: np.ndarray | None = None,
    rounds: int = 4,
    report: Callable[[str], None] | None = None,
) -> Tuning:
    """Noise levels and weights for `calls` network calls.

    1. For each exponent of `POWERS`, `best_levels` places the levels; equal timesteps are tried too. `FittedRun` finds
       the weights in one run.
    2. The best of them is refined end to end (`refine`).

    Args:
        runner: makes runs from the noise that the trajectory started from.
        process: the forward process.
        trajectory: of `record`, with at least twice as many levels as `calls`.
        calls: network calls of the run that is tuned.
        method: place the levels for this method; by default weights are fitted too, for `Tuned`.
        errors: of `local_errors(trajectory)`, to share them between several numbers of calls.
        rounds: of `refine`; 0 leaves the refinement out.
        report: told one line now and then.

    Raises:
        ValueError: more calls than half of the trajectory's levels.
    """
    costs = local_errors(trajectory) if errors is None else errors
    counted = _Counted(runner)

    history = max(calls - 1, 1) if calls <= FULL_HISTORY_UP_TO else HISTORY
    first = process.at_sigma(trajectory.levels[0]).timestep
    even = tuple(process.sigma_of(process.at(first * (1 - k / calls))) for k in range(calls))
    starts = [
        (tuple(trajectory.levels[k] for k in best_levels(trajectory, costs, calls, power)), f"contraction {power:g}")
        for power in POWERS
    ]
    starts.append(((trajectory.levels[0], *even[1:]), "equal timesteps"))
    found: list[tuple[Candidate, str]] = []
    for levels, name in dict(starts).items():
        fitted = FittedRun(trajectory, history)
        off = distance(counted(method or fitted, levels), trajectory)
        error = float(off.norm())
        found.append((Candidate(levels, (0.0,) * calls, tuple(fitted.table), error, cauchy(off, knee_of(off))), name))
        if report is not None:
            report(f"{calls} calls, {name}: error {error:.4g}")
    start, name = min(found, key=lambda item: item[0].loss)
    best = start
    if rounds and calls > 1:
        free = calls <= FREE_WEIGHTS_UP_TO
        best = refine(
            counted, trajectory, process, start, rounds=rounds, free_weights=free, method=method, report=report
        )
    told = timesteps_of(process, best.levels, best.offsets)
    return Tuning(best.levels, tuple(told), best.table, best.gains or (1.0,) * calls, best.error, name, counted.calls)
