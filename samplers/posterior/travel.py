"""Time travel: walk back up to more noise now and then, and come down again, so that parts agree with each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..core.grid import Grid
from ..core.process import Node


@dataclass(frozen=True)
class Move:
    """One move of a run, from node number `start` of the grid to node number `end`.

    Down (`end` = `start` + 1) the network is called once or more; up (`end` < `start`) noise is added, nothing else.
    `segment` is the node at which the present descent began: what a multistep formula remembers begins there.
    """

    start: int
    end: int
    segment: int

    @property
    def up(self) -> bool:
        return self.end < self.start


def travel(calls: int, length: int = 1, repeats: int = 1) -> tuple[Move, ...]:
    """The moves of a run over `calls` + 1 nodes with jumps of `length` nodes, each stretch run `repeats` times.

    Counted from the clean end (0 is the last node at which the network is called), the sample jumps `length` nodes up
    when it arrives at 0, length, 2 length, ... below calls - length, repeats - 1 times each. Network calls in all:
    calls + (repeats - 1) * length * (number of such places).

    Reference: Lugmayr, Danelljan, Romero, Yu, Timofte, Van Gool 2022, RePaint (arXiv 2201.09865).

    Raises:
        ValueError: length or repeats below 1.
    """
    if length < 1 or repeats < 1:
        raise ValueError(f"time travel needs a length and a number of repeats of at least 1, got {length}, {repeats}")
    left = {j: repeats - 1 for j in range(0, calls - length, length)} if repeats > 1 else {}
    moves, at, segment = [], 0, 0
    while at < calls:
        moves.append(Move(at, at + 1, segment))
        at += 1
        from_end = calls - 1 - at
        if left.get(from_end, 0) > 0:
            left[from_end] -= 1
            moves.append(Move(at, at - length, segment))
            at = segment = at - length
    return tuple(moves)


def climb(x: torch.Tensor, node: Node, to: Node, normal: torch.Tensor) -> torch.Tensor:
    """Add the noise that takes a sample at `node` to the noisier `to`, by the forward process: one draw.

    x' = (alpha'/alpha) x + sqrt(sigma'^2 - (alpha'/alpha)^2 sigma^2) n.
    """
    a = to.alpha / node.alpha
    return a * x + math.sqrt(max(to.sigma**2 - (a * node.sigma) ** 2, 0.0)) * normal


def nodes_of(grid: Grid, move: Move) -> tuple[Node, Node]:
    """The two noise levels of a move."""
    return grid.nodes[move.start], grid.nodes[move.end]
