"""The explicit midpoint rule, which is what RF-Solver computes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from ..core.grid import Grid
from ..core.method import Reference, Spec, Stage
from ..core.process import Process
from ..core.registry import alias, register
from ..core.stages import StagedMethod, midpoint

WANG_2024 = Reference(
    "wang2025rfsolver",
    "Jiangshan Wang and Junfu Pu and Zhongang Qi and Jiayi Guo and Yue Ma and Nisha Huang and Yuxin Chen and Xiu Li "
    "and Ying Shan",
    "Taming Rectified Flow for Inversion and Editing",
    2025,
    "2411.04746",
    "International Conference on Machine Learning",
)


@register
@dataclass(frozen=True)
class Midpoint(StagedMethod):
    """The midpoint rule, two network calls a step of length h from e to e + h with the middle m:

        y = x + h/2 v(x, e),      x' = x + h v(y, m).

    Second order; inverting and then sampling on the same edges returns with an error of order 3. RF-Solver's second
    order expansion x + h v + h^2/2 (v(y, m) - v) / (h/2) is the same expression, so its name is an alias. `FireFlow`
    reaches the order with half the calls.

    Reference: Wang et al. 2025 (arXiv 2411.04746).
    """

    name: ClassVar[str] = "midpoint"
    summary: ClassVar[str] = "the midpoint rule, RF-Solver: what FireFlow does with twice the calls"
    formula: ClassVar[str] = "y = x + h/2 v(x, e),  x' = x + h v(y, m)"
    references: ClassVar[tuple[Reference, ...]] = (WANG_2024,)

    @property
    def spec(self) -> Spec:
        return Spec(2, 2, "any", history=1, operations=3, calls=2)

    def stages(self, process: Process, grid: Grid) -> tuple[Stage, ...]:
        """Two an interval, but one where no level below the edge can be told to the network (`midpoint`)."""
        found = []
        for k, (node, to) in enumerate(pairwise(grid.nodes)):
            middle = midpoint(process, node, to)
            found.append(Stage(node, grid.from_noise(k), "edge", node))
            if middle is not node:
                found.append(Stage(middle, grid.from_noise(k), "mid", node))
        return tuple(found)


alias("rf solver", "midpoint")
