"""The plain loop: a denoiser, a method and a grid take noise to a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .grid import Grid
from .method import Method, State
from .process import Process

#: ``denoiser(x, timestep) -> prediction``; `timestep` is what `Node.timestep` says, a float.
Denoiser = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Result:
    """A sample and what it cost."""

    sample: torch.Tensor
    calls: int


def run(
    denoiser: Denoiser,
    method: Method,
    process: Process,
    grid: Grid,
    start: torch.Tensor,
    callback: Callable[[int, torch.Tensor], None] | None = None,
) -> Result:
    """Take `start`, a sample at the first noise level of `grid`, to the last one.

    Args:
        denoiser: the network; it gets ``process.input_scale(node) * x`` and the timestep.
        method: a sampling method.
        process: the forward process, which also says what the network predicts.
        grid: noise levels.
        start: (B, ...) at ``grid.nodes[0]``: ``alpha * x0 + sigma * eps``.
        callback: called as ``callback(i, x)`` after each network call.

    Returns:
        The sample at ``grid.nodes[-1]`` and the number of network calls.
    """
    plan = method.plan(process, grid)
    x = start
    state: State = ()
    for i, node in enumerate(plan.calls):
        scale = process.input_scale(node)
        prediction = denoiser(x if scale == 1.0 else x * scale, node.timestep)
        x, state = method.step(plan, i, x, prediction, state)
        if callback is not None:
            callback(i, x)
    return Result(x, len(plan.calls))
