"""The plain loop: a denoiser, a method and a grid take noise to a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .grid import Grid
from .method import Method, Stage, State
from .process import Process

#: ``denoiser(x, timestep) -> prediction``; `timestep` is what `Node.timestep` says, a float.
Denoiser = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Result:
    """A sample, what it cost, and what the method carried at the end of the run."""

    sample: torch.Tensor
    calls: int
    state: State = ()


def run(
    denoiser: Denoiser,
    method: Method,
    process: Process,
    grid: Grid,
    start: torch.Tensor,
    callback: Callable[[int, torch.Tensor], torch.Tensor | None] | None = None,
    *,
    first: int = 0,
    state: State = (),
    on_call: Callable[[int, Stage], None] | None = None,
) -> Result:
    """Take `start`, a sample at the first network call's noise level, to the last noise level of `grid`.

    Args:
        denoiser: the network; it gets ``process.input_scale(node) * x`` and the timestep.
        method: a sampling method.
        process: the forward process, which also says what the network predicts.
        grid: noise levels.
        start: (B, ...) at ``grid.nodes[0]``: ``alpha * x0 + sigma * eps``.
        callback: called as ``callback(i, x)`` after each network call; a tensor that it returns takes the place of x,
            which is the sample at the next call's noise level (or, after the last call, at the end).
        first: network call to begin with, `start` being the sample there.
        state: what an earlier run of the method left for this one.
        on_call: called as ``on_call(i, stage)`` just before each network call, i from 0.

    Returns:
        The sample at ``grid.nodes[-1]``, the number of network calls, and the state at the end.
    """
    plan = method.plan(process, grid, first) if first else method.plan(process, grid)
    stages = plan.stages if on_call is not None else ()
    x = start
    for i, node in enumerate(plan.calls):
        if on_call is not None:
            on_call(i, stages[i])
        scale = process.input_scale(node)
        prediction = denoiser(x if scale == 1.0 else x * scale, node.timestep)
        x, state = method.step(plan, i, x, prediction, state)
        if callback is not None:
            changed = callback(i, x)
            x = x if changed is None else changed
    return Result(x, len(plan.calls), state)
