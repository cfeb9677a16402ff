"""Adams-Bashforth on the probability-flow ODE written so that straight paths have a constant slope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import LinearStep, Method, Reference, Spec, State, advance_linear, linear_steps, option
from ..core.process import Process, slope_coordinate
from ..core.registry import alias, register
from ..core.weights import adams_bashforth, adams_bashforth_variable

LIU_2022 = Reference(
    "liu2022pndm",
    "Luping Liu and Yi Ren and Zhijie Lin and Zhou Zhao",
    "Pseudo Numerical Methods for Diffusion Models on Manifolds",
    2022,
    "2202.09778",
    "International Conference on Learning Representations",
)
ZHANG_2023 = Reference(
    "zhang2023deis",
    "Qinsheng Zhang and Yongxin Chen",
    "Fast Sampling of Diffusion Models with Exponential Integrator",
    2023,
    "2204.13902",
    "International Conference on Learning Representations",
)


def slope_weights(process: Process, grid: Grid, n: int, order: int, weights: str) -> tuple[list[float], float]:
    """(shares, step): Adams-Bashforth shares b_0, b_1, ... of step `n`, sum 1; its length in units of the sample."""
    scale, tau_to = slope_coordinate(process, grid.nodes[n + 1])
    _, tau = slope_coordinate(process, grid.nodes[n])
    order = min(order, n + 1)
    if weights == "variable":
        times = [slope_coordinate(process, grid.nodes[n - j])[1] for j in range(order)]
        times = [t for t in times if math.isfinite(t)] or times[:1]
        shares = adams_bashforth_variable(times, tau_to) if len(times) > 1 else [1.0]
    else:
        shares = adams_bashforth(order)
    return shares, scale * (tau_to - tau)


@register
@dataclass(frozen=True)
class AdamsBashforth(Method):
    """Adams-Bashforth of order 1 to 4 on dx_bar/dsigma_bar = eps (VP, EDM) or dx/dsigma = velocity (flow).

    With x_bar = x / alpha, sigma_bar = sigma / alpha and delta = sigma_bar' - sigma_bar,

        x_bar' = x_bar + delta * sum_j b_j eps_{n-j},      b = (55, -59, 37, -9) / 24 at order 4.

    Order 1 is DDIM (eta = 0), Euler in sigma_bar, and flow Euler. The `fixed` weights are the classical ones for equal
    steps (PLMS without its extra first call): on an unequal grid their order is min(order, 2). The `variable` weights
    integrate the interpolating polynomial on the grid at hand (k-diffusion's LMS, DEIS rho-AB) and keep their order.

    Good at mild guidance and 10 or more steps; under strong guidance the small stability region shows as saturated
    blotches: `GHVB` is the cure.

    References: Liu et al. 2022 (arXiv 2202.09778); Zhang and Chen 2023 (arXiv 2204.13902).
    """

    order: int = option(4, "Order of the multistep formula.", low=1, high=4)
    weights: str = option("fixed", "Weights for equal steps or for the grid at hand.", choices=("fixed", "variable"))
    euler_at_final: bool = option(False, "Take the last step at first order.")

    name: ClassVar[str] = "adams-bashforth"
    summary: ClassVar[str] = "DDIM at order 1, PLMS and LMS above; for mild guidance"
    formula: ClassVar[str] = "x̄' = x̄ + δ Σ b_j eps_{n-j},  x̄ = x/alpha,  δ the step in sigma/alpha"
    references: ClassVar[tuple[Reference, ...]] = (LIU_2022, ZHANG_2023)

    @property
    def spec(self) -> Spec:
        reached = min(self.order, 2) if self.euler_at_final else self.order
        needs = "equal steps" if self.weights == "fixed" and reached > 2 else "any"
        return Spec(reached, min(reached, 2), needs, history=self.order - 1, operations=self.order + 2)

    def plan_steps(self, process: Process, grid: Grid) -> tuple[LinearStep, ...]:
        def weights(n: int) -> list[float]:
            last = self.euler_at_final and n == grid.calls - 1
            shares, step = slope_weights(process, grid, n, 1 if last else self.order, self.weights)
            return [step * b for b in shares[1:]]

        return linear_steps(process, grid, "slope", self.order - 1, weights)

    def advance(
        self, step: LinearStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        return advance_linear(step, x, prediction, state)


alias("ddim", "adams-bashforth", order=1)
alias("euler", "adams-bashforth", order=1)
alias("plms", "adams-bashforth", order=4)
alias("ipndm", "adams-bashforth", order=4)
alias("ipndm v", "adams-bashforth", order=4, weights="variable")
alias("lms", "adams-bashforth", order=4, weights="variable")
alias("deis", "adams-bashforth", order=3, weights="variable")
alias("ab2", "adams-bashforth", order=2)
alias("ab3", "adams-bashforth", order=3)
alias("ab4", "adams-bashforth", order=4)
