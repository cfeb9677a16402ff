"""Refinement end to end: Gauss-Newton on the distance between a short run's end and the converged one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from ..continuous.tuned import Row, Tuned
from ..core.method import Method
from ..core.process import Process, slope_coordinate
from .fitting import FittedRun
from .trajectory import Runner, Trajectory, at_least_float32, grid_of

#: Medians of the batch beyond which a sample's distance hardly counts.
KNEE = 4.0
#: Medians of the batch beyond which a sample's response is no derivative.
FORK = 30.0


@dataclass(frozen=True)
class Candidate:
    """Noise levels, rows and gains of `Tuned`, and what they leave undone on the tuning samples.

    Attributes:
        levels: noise levels.
        offsets: say what the network is told (`timesteps_of`).
        table: rows of `Tuned`.
        error: root mean square distance.
        loss: `cauchy` of it, by which candidates are compared.
        gains: of `Tuned`; empty: 1 everywhere.
    """

    levels: tuple[float, ...]
    offsets: tuple[float, ...]
    table: tuple[Row, ...]
    error: float
    loss: float
    gains: tuple[float, ...] = ()


def bend(levels: Sequence[float], amounts: Sequence[float]) -> tuple[float, ...]:
    """Noise levels moved smoothly: log s_k + sum_m a_m sin(pi m k / N); the first stays where it is."""
    count = len(levels)
    return tuple(
        level * math.exp(math.fsum(a * math.sin(math.pi * m * k / count) for m, a in enumerate(amounts, 1)))
        for k, level in enumerate(levels)
    )


def taus_of(process: Process, levels: Sequence[float]) -> list[float]:
    """tau of every noise level (`slope_coordinate`)."""
    return [slope_coordinate(process, node)[1] for node in grid_of(process, levels).nodes[:-1]]


def timesteps_of(process: Process, levels: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """What the network is told: the timestep of the noise level s exp(offset), within the range of the process."""
    most = levels[0]
    return [process.at_sigma(min(s * math.exp(o), most)).timestep for s, o in zip(levels, offsets, strict=True)]


def distance(end: torch.Tensor, trajectory: Trajectory) -> torch.Tensor:
    """What a run left undone, (B, pixels) float64, scaled so that its norm is the root mean square."""
    off = (at_least_float32(end) - trajectory.end).flatten(1).double()
    return off / math.sqrt(off.numel())


def knee_of(off: torch.Tensor) -> float:
    """Distance of a sample beyond which it is an outlier: `KNEE` medians of the batch."""
    return KNEE * float(off.norm(dim=1).median())


def cauchy(off: torch.Tensor, knee: float) -> float:
    """Square root of sum_b knee^2 log(1 + e_b^2 / knee^2), e_b being the distance of a sample.

    That is e^2 well below the knee, and hardly grows beyond it. A sample that stands where two solutions part lands
    far away or near by chance; squared, one such sample in hundreds would outweigh all others.
    """
    squares = off.square().sum(dim=1)
    if math.isinf(knee) or knee == 0:
        return float(squares.sum().sqrt())
    return knee * float((squares / knee**2).log1p().sum().sqrt())


def trusted(off: torch.Tensor, jacobian: torch.Tensor, knee: float) -> torch.Tensor:
    """Weight of every sample in the normal equations, (B,).

    That of `cauchy`, 1 / (1 + e^2 / knee^2); and 0 where a small change of a number moved the sample `FORK` times as
    far as it moved the median sample, for then the derivative is none.
    """
    moved = jacobian.norm(dim=2)
    smooth = (moved <= FORK * moved.median(dim=1, keepdim=True).values).all(dim=0)
    return smooth / (1 + off.square().sum(dim=1) / max(knee, 1e-300) ** 2)


def refine(
    runner: Runner,
    trajectory: Trajectory,
    process: Process,
    start: Candidate,
    *,
    rounds: int = 4,
    modes: int = 8,
    free_weights: bool = True,
    method: Method | None = None,
    report: Callable[[str], None] | None = None,
) -> Candidate:
    """Levenberg-Marquardt on the noise levels, and on all weights or with the weights fitted anew for each change.

    Derivatives are forward differences, so a round costs one run for every number that may move, and one or more for
    the step. Numbers that act late come first, so that a runner which remembers what the network said repeats only
    what changed, half of the calls or less. A step that does not lower `cauchy` is not taken.

    Args:
        runner: makes a run.
        trajectory: where runs should end.
        process: the forward process.
        start: where to begin.
        rounds: Gauss-Newton rounds at most.
        modes: sine waves by which the levels may bend, at most one less than there are levels.
        free_weights: move the weights too, the gains, and what the network is told; else `FittedRun` finds the weights
            for each bend, which is what can be paid for above 20 calls or so.
        method: bend the levels for this method and leave all else alone.
        report: told one line a round.
    """
    bends, calls = min(modes, len(start.levels) - 1), len(start.levels)
    shapes = [len(row) - 1 for row in start.table]

    def run(base: Candidate, numbers: torch.Tensor, knee: float = math.inf) -> tuple[Candidate, torch.Tensor] | None:
        levels = bend(base.levels, numbers[:bends].tolist())
        if any(not a > b for a, b in pairwise(levels)):
            return None
        offsets = base.offsets
        if method is not None:
            off = distance(runner(method, levels), trajectory)
            return Candidate(levels, offsets, (), float(off.norm()), cauchy(off, knee)), off
        if free_weights:
            offsets = tuple(o + d for o, d in zip(offsets, numbers[bends : bends + calls].tolist(), strict=True))
        told = timesteps_of(process, levels, offsets)
        if free_weights:
            gains = tuple(
                g + d
                for g, d in zip(base.gains or (1.0,) * calls, numbers[bends + calls :][:calls].tolist(), strict=True)
            )
            moved, table, at = numbers[bends + 2 * calls :].tolist(), [], 0
            for row, count, tau in zip(base.table, shapes, taus_of(process, levels), strict=True):
                table.append((tau, *(w + moved[at + j] for j, w in enumerate(row[1:]))))
                at += count
            end = runner(Tuned((tuple(table),), (gains,)), levels, told)
        else:
            fitted = FittedRun(trajectory)
            end, table, gains = runner(fitted, levels, told), fitted.table, ()
        off = distance(end, trajectory)
        return Candidate(levels, offsets, tuple(table), float(off.norm()), cauchy(off, knee), gains), off

    best, damping = start, 1e-2
    acts_on = [1] * bends  # the first call whose input a number changes
    if free_weights and method is None:
        acts_on += [*range(calls), *range(1, calls + 1)]
        acts_on += [k + 1 for k, count in enumerate(shapes) for _ in range(count)]
    size = len(acts_on)
    steps = torch.full((size,), 1e-2, dtype=torch.float64)
    for turn in range(rounds):
        here = run(best, torch.zeros(size, dtype=torch.float64))
        assert here is not None
        best, off = here
        knee = knee_of(off)
        best = replace(best, loss=cauchy(off, knee))
        jacobian = torch.zeros(size, *off.shape, dtype=torch.float64)
        for k in sorted(range(size), key=lambda k: -acts_on[k]):
            probe = torch.zeros(size, dtype=torch.float64)
            probe[k] = steps[k]
            there = run(best, probe)
            if there is not None:
                jacobian[k] = (there[1] - off) / steps[k]
        weight = trusted(off, jacobian, knee)[:, None].sqrt()
        jacobian, off = (jacobian * weight).flatten(1), (off * weight).flatten()
        normal, gradient = jacobian @ jacobian.T, jacobian @ off
        before = best
        for _ in range(5):
            damped = normal + torch.diag(damping * normal.diagonal() + 1e-12)
            trial = run(best, -torch.linalg.solve(damped, gradient), knee)
            if trial is not None and trial[0].loss < best.loss:
                best, damping = trial[0], max(damping / 5, 1e-6)
                break
            damping *= 5
        if report is not None:
            report(
                f"round {turn + 1}: error {before.error:.4g} -> {best.error:.4g}, "
                f"with outliers held back {before.loss:.4g} -> {best.loss:.4g}"
            )
        if best.loss > before.loss * (1 - 5e-3):
            break
    return best
