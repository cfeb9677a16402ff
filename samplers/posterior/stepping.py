"""From one noise level to the next, given the clean estimate: fresh noise, kept noise, and multistep formulas between.

The plain move is that of DDIM with a share f of fresh noise,

    x' = alpha' x0 + sigma' (f n + sqrt(1 - f^2) eps).

With a step sampler of the core the corrected x0 is handed to that method as if the network had predicted it; the method
goes to the noise level (alpha', sqrt(1 - f^2) sigma'), and fresh noise f sigma' n fills up the rest. In half log-SNR
lambda, with h = lambda' - lambda, that is the stochastic equation whose exponential integrator is

    x' = (sigma'/sigma) e^{-(kappa - 1) h} x + alpha' kappa * integral_0^h e^{-kappa (h - s)} x0(lambda + s) ds + noise,

kappa = 1 - log(sqrt(1 - f^2)) / h: the deterministic formula with every distance in lambda stretched by kappa (2 for
SDE-DPM-Solver++). So the earlier nodes are stretched about the present one. Only methods that extrapolate x0 can do
that; for those that extrapolate eps or the velocity, f must be 0.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from ..core.grid import CLEAN, Grid
from ..core.method import Method, Plan
from ..core.process import Node, Process
from .travel import Move


@dataclass(frozen=True)
class Descent:
    """Coefficients of a move down.

    Attributes:
        node, to: noise levels of the sample before and after.
        fresh: share f of fresh noise in sigma', in [0, 1].
        plan, index: plan of the step sampler and its step, or None and 0.
    """

    node: Node
    to: Node
    fresh: float
    plan: Plan | None = None
    index: int = 0


def ddim_share(node: Node, to: Node, eta: float) -> float:
    """Share f of fresh noise for DDIM's eta: eta sqrt(1 - (ratio' / ratio)^2); eta = 1 is ancestral sampling (DDPM)."""
    q = to.ratio / node.ratio if math.isfinite(node.ratio) else 0.0
    return eta * math.sqrt(max(1 - q * q, 0.0))


def implied_eps(node: Node, x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """The noise that goes with a clean estimate: (x - alpha x0) / sigma."""
    return (x - node.alpha * x0) / node.sigma


def predicting_data(process: Process) -> Process:
    """The same process for a network that predicts x0: what a step sampler is told."""
    return dataclasses.replace(process, prediction="sample")  # type: ignore[type-var]


def extrapolates_data(sampler: Method) -> bool:
    """Whether a method of the core extrapolates x0, and nothing that fresh noise would spoil."""
    return getattr(sampler, "form", None) == "x0"


def down_node(to: Node, fresh: float) -> Node:
    """Where a step sampler goes so that fresh noise can fill up to `to`."""
    if fresh == 0:
        return to
    return Node(to.timestep, to.alpha, to.sigma * math.sqrt(max(1 - fresh * fresh, 0.0)))


def stretched(node: Node, about: Node, factor: float) -> Node:
    """The noise level `factor` times as far from `about` in half log-SNR."""
    if factor == 1.0 or not math.isfinite(node.lambda_):
        return node
    ratio = math.exp(-(about.lambda_ + factor * (node.lambda_ - about.lambda_)))
    alpha = 1 / math.hypot(1.0, ratio)
    return Node(node.timestep, alpha, ratio * alpha)


def plan_step(sampler: Method, process: Process, grid: Grid, n: int, to: Node) -> Plan:
    """Plan of a step sampler whose step `n` goes to `to` instead of node n + 1; steps behind it are never taken."""
    left, here, there = grid.calls - n - 1, grid.nodes[n], grid.nodes[n + 1]
    stretch = 1.0
    if math.isfinite(to.lambda_) and math.isfinite(here.lambda_):
        stretch = (to.lambda_ - here.lambda_) / (there.lambda_ - here.lambda_)
    nodes = [*(stretched(node, here, stretch) for node in grid.nodes[:n]), here, to]
    if left and to.sigma > 0:  # as many calls as the run has: formulas that come down at the end must not do so early
        nodes += [Node(to.timestep, to.alpha, to.sigma * 2.0 ** -(k + 1)) for k in range(left - 1)]
        nodes.append(CLEAN)
    return sampler.plan(process, Grid(tuple(nodes)))


def plan_descents(
    process: Process, grid: Grid, moves: tuple[Move, ...], shares: dict[int, float], sampler: Method | None
) -> tuple[Descent | None, ...]:
    """Coefficients of every move: a `Descent`, or None for a climb. `shares[n]` is the fresh share of step n.

    Raises:
        ValueError: fresh noise with a step sampler that does not extrapolate x0.
    """
    if sampler is not None:
        process = predicting_data(process)
        if any(shares.values()) and not extrapolates_data(sampler):
            raise ValueError(
                f"{sampler.name} extrapolates the noise, which fresh noise spoils: draw none (renoise, eta or zeta 0), "
                "or step with exponential-adams"
            )
    made: dict[tuple[int, int], tuple[Plan, int]] = {}
    descents: list[Descent | None] = []
    for move in moves:
        if move.up:
            descents.append(None)
            continue
        node, to, fresh = grid.nodes[move.start], grid.nodes[move.end], shares[move.start]
        if sampler is None:
            descents.append(Descent(node, to, fresh))
            continue
        tail, index = Grid(grid.nodes[move.segment :]), move.start - move.segment
        key = (move.segment, index if fresh else -1)
        if key not in made:
            plan = plan_step(sampler, process, tail, index, down_node(to, fresh)) if fresh else None
            made[key] = (plan or sampler.plan(process, tail), index)
        descents.append(Descent(node, to, fresh, made[key][0], index))
    return tuple(descents)
