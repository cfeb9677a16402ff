"""FireFlow: the midpoint rule at one network call a step, for sampling and for inversion.

The midpoint rule needs a slope at the edge of a step to reach its middle. FireFlow takes that of the middle before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Reference, Spec, Stage, evaluate
from ..core.process import Linear, Process, slope_coordinate
from ..core.registry import register
from ..core.stages import StagedMethod, midpoint

DENG_2025 = Reference(
    "deng2025fireflow",
    "Yingying Deng and Xiangyu He and Changwang Mei and Peisong Wang and Fan Tang",
    "FireFlow: Fast Inversion of Rectified Flow for Image Semantic Editing",
    2025,
    "2412.07517",
    "International Conference on Machine Learning",
)


@register
@dataclass(frozen=True)
class FireFlow(StagedMethod):
    """FireFlow over the edges e_0 ... e_N, with h_k = e_{k+1} - e_k, middles m_k and v_before = v(x_0, e_0) at first:

        y_k = x_k + h_k/2 v_before,      v_k = v(y_k, m_k),      x_{k+1} = x_k + h_k v_k,      v_before <- v_k.

    Order 2 at N + 1 network calls; the same text samples (noise to data) and inverts (data to noise), and inverting,
    then sampling on the same edges returns with an error of order 3. On equal steps it is the second-order
    Adams-Bashforth formula on the middles, read out at the edge; one step is the midpoint rule. The sample between two
    calls is y_k. Written for flows, v = dx/dsigma; on other processes x stands for x / alpha and the edges for
    sigma / alpha.

    Use it for inversion and editing, where its round trip is what counts. In plain sampling it is level with the
    midpoint rule at equal calls; its stable range is that of Adams-Bashforth (|h lambda| < 1), so under strong guidance
    take `GHVB`. On shifted grids of 4 steps and fewer it is no better than Euler.

    Reference: Deng et al. 2025 (arXiv 2412.07517).
    """

    name: ClassVar[str] = "fireflow"
    summary: ClassVar[str] = "inversion and editing: second order, and third in the round trip, at one call a step"
    formula: ClassVar[str] = "y_k = x_k + h_k/2 v_{k-1},  v_k = v(y_k, m_k),  x_{k+1} = x_k + h_k v_k"
    references: ClassVar[tuple[Reference, ...]] = (DENG_2025,)

    @property
    def spec(self) -> Spec:
        return Spec(2, 2, "any", history=1, operations=3, extra_calls=1)

    def stages(self, process: Process, grid: Grid) -> tuple[Stage, ...]:
        first = grid.nodes[0]
        opening = "edge" if grid.descending else "start"  # the two openings are at opposite ends, and are no partners
        return (
            Stage(first, grid.from_noise(0), opening, first),
            *(
                Stage(midpoint(process, node, to), grid.from_noise(k), "mid", node)
                for k, (node, to) in enumerate(pairwise(grid.nodes))
            ),
        )


def warm_start(process: Process, grid: Grid, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The sample at the first middle of `grid`, from `x` at its first edge and a slope that is known already.

    After an inversion the slope of its last call stands in for the one that sampling would begin with: the run goes on
    at network call 1 with the state ``(slope,)`` and saves one call.
    """
    first = grid.nodes[0]
    middle = midpoint(process, first, grid.nodes[1])
    (scale, tau), (scale_to, tau_to) = slope_coordinate(process, first), slope_coordinate(process, middle)
    if scale == 0:
        raise ValueError("a run cannot start warm from pure noise of a variance-preserving process: no signal is left")
    return evaluate(Linear(scale_to / scale, scale_to * (tau_to - tau)), x, slope)
