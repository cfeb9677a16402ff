"""The path of an inversion: states at the edges of the grid, and how a mask keeps what lies outside of it on the path.

Solvers carry states between edges, and some predict before they correct. What holds for all of them is what they do
with a velocity, so the path is followed, and kept, through the velocities that they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

#: Solvers whose state moves by step times velocity at the calls of this kind.
_ADVANCES = {"fireflow": "mid", "midpoint": "mid", "euler": "edge", "uni-inv": "edge"}
#: Solvers whose network input is the state itself.
_OBSERVED = ("o-belm", "exact", "rf-inversion")


def advances(solver: str, kind: str) -> bool:
    """Whether a call of this kind moves the state to the next edge."""
    return _ADVANCES.get(solver) == kind


class PathRecorder:
    """Collects the states at the edges e_0 (noise) ... e_N (data) while an inversion runs from e_N to e_0."""

    def __init__(self, solver: str, edges: Sequence[float], start: torch.Tensor) -> None:
        self.solver = solver
        self.edges = tuple(edges)
        self.states: dict[int, torch.Tensor] = {len(self.edges) - 1: start}

    def see(self, stage: Any, x: torch.Tensor, velocity: torch.Tensor) -> None:
        """One call of the network, at `x`."""
        if self.solver in _OBSERVED:
            place = stage.interval if stage.kind == "node" else stage.interval + 1
            self.states[place] = x
        elif advances(self.solver, stage.kind):
            j = stage.interval
            self.states[j] = self.states[j + 1] + (self.edges[j] - self.edges[j + 1]) * velocity

    def path(self, last: torch.Tensor) -> torch.Tensor:
        """(N + 1, B, ...) states at e_0 ... e_N; `last` is the inverted state itself."""
        self.states[0] = last
        return torch.stack([self.states[j] for j in range(len(self.edges))])


class MaskBlend:
    """Keeps latents outside of a mask on the path of the inversion while the solver samples.

    Outside, the velocity is exchanged for the one that takes the state to the inversion's state at the next edge,
    v = (path_{j+1} - x_j) / (e_{j+1} - e_j); inside it is the model's own. In the window of noise levels where this is
    done, what lies outside reproduces the latents of the picture, for any solver that moves by step times velocity.

    Args:
        solver: name of the solver.
        edges: e_0 (noise) ... e_N (data).
        path: (N + 1, B, ...) from `PathRecorder`.
        mask: 1 inside, 0 outside; as latents, or to be broadcast to them.
        window: (lowest, highest) noise level of the blending.
    """

    def __init__(
        self, solver: str, edges: Sequence[float], path: torch.Tensor, mask: torch.Tensor, window: tuple[float, float]
    ) -> None:
        self.solver = solver
        self.edges = tuple(edges)
        self.path = path
        self.mask = mask
        self.window = window
        self._state = path[0]
        self._before = path[0]

    def blend(self, stage: Any, x: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        """The velocity that the solver gets for one call at `x`."""
        if self.solver == "rf-inversion":
            return velocity  # is pulled to the picture by itself
        if stage.kind == "node":
            return self._two_step(stage, x, velocity)
        j = stage.interval
        step = self.edges[j + 1] - self.edges[j]
        if self.window[0] <= stage.node.sigma <= self.window[1]:
            kept = (self.path[j + 1] - self._state) / step
            velocity = velocity + (1 - self.mask) * (kept - velocity)
        if advances(self.solver, stage.kind):
            self._state = self._state + step * velocity
        return velocity

    def _two_step(self, stage: Any, x: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        """The same for x_{k+1} = r^2 x_{k-1} + (1 - r^2) x_k + h (1 + r) v, whose input is its state."""
        k = stage.interval
        h = self.edges[k + 1] - self.edges[k]
        if k == 0:
            kept = (self.path[1] - x) / h
        else:
            r = h / (self.edges[k] - self.edges[k - 1])
            kept = (self.path[k + 1] - r * r * self._before - (1 - r * r) * x) / (h * (1 + r))
        self._before = x
        if self.window[0] <= stage.node.sigma <= self.window[1]:
            velocity = velocity + (1 - self.mask) * (kept - velocity)
        return velocity
