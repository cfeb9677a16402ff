"""Uni-Inv: an inversion matched to Euler sampling."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from ..core.grid import Grid
from ..core.method import Reference, Spec, Stage
from ..core.process import Process
from ..core.stages import StagedMethod

JIAO_2025 = Reference(
    "jiao2025uniedit",
    "Guanlong Jiao and Biqing Huang and Kuan-Chieh Wang and Renjie Liao",
    "UniEdit-Flow: Unleashing Inversion and Editing in the Era of Flow Models",
    2025,
    "2504.13109",
)


@dataclass(frozen=True)
class UniInv(StagedMethod):
    """Uni-Inv, from data to noise, with v_before = v(x_0, e_0) at first:

        y = x_k + h_k v_before,      v_k = v(y, e_{k+1}),      x_{k+1} = x_k + h_k v_k,      v_before <- v_k.

    Euler sampling over the interval uses v(x_{k+1}, e_{k+1}); this is what v_k tries to be, so the way back by Euler
    errs at second order although either leg is of first order. N + 1 network calls. It has no use as a sampler: the
    last call lies at the end of the run.

    Reference: Jiao et al. 2025 (arXiv 2504.13109).
    """

    name: ClassVar[str] = "uni-inv"
    summary: ClassVar[str] = "inversion matched to Euler sampling"
    formula: ClassVar[str] = "y = x_k + h_k v_{k-1},  v_k = v(y, e_{k+1}),  x_{k+1} = x_k + h_k v_k"
    references: ClassVar[tuple[Reference, ...]] = (JIAO_2025,)

    @property
    def spec(self) -> Spec:
        return Spec(1, 1, "any", history=1, operations=3, extra_calls=1)

    def stages(self, process: Process, grid: Grid) -> tuple[Stage, ...]:
        first = grid.nodes[0]
        return (
            Stage(first, grid.from_noise(0), "start", first),
            *(Stage(to, grid.from_noise(k), "edge", node) for k, (node, to) in enumerate(pairwise(grid.nodes))),
        )
