"""Exponential Adams: multistep formulas that solve the linear part of the probability-flow ODE exactly.

With half log-SNR as time the ODE is linear but for the network's output, which is extrapolated by a polynomial through
its last values and integrated against the exponential: DPM-Solver++ (data form) and DPM-Solver (noise form), multistep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import LinearStep, Method, Reference, Spec, State, advance_linear, linear_steps, option, transport
from ..core.process import Node, Process
from ..core.registry import alias, register
from ..core.weights import exponential_adams, phi

LU_2022 = Reference(
    "lu2022dpmpp",
    "Cheng Lu and Yuhao Zhou and Fan Bao and Jianfei Chen and Chongxuan Li and Jun Zhu",
    "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
    2022,
    "2211.01095",
)


def final_orders(n: int, count: int, order: int, lower: bool) -> int:
    """Order of step `n` of `count`: short runs (below 15 steps) come down to order 1 at the end, as diffusers does."""
    return min(order, count - n) if lower and count < 15 else order


def step_weights(
    process: Process, grid: Grid, n: int, order: int, form: str, solver_type: str, variant: str
) -> list[float]:
    """Weights w_1, w_2, ... on differences of the field over step `n`, in units of the sample; empty at order 1."""
    nodes = grid.nodes
    to = nodes[n + 1]
    lambdas = [nodes[n - j].lambda_ for j in range(min(order, n + 1))]
    lambdas = [value for value in lambdas if math.isfinite(value)]  # pure noise is no point of a polynomial in lambda
    if len(lambdas) < 2 or to.sigma == 0:
        return []
    _, total = transport(process, nodes[n], to, form)
    h = to.lambda_ - lambdas[0]
    if len(lambdas) == 2 and solver_type == "midpoint":
        return [-total * h / (2 * (lambdas[0] - lambdas[1]))]
    if len(lambdas) == 3 and variant == "published":
        half = [w / 2 for w in _second_difference(lambdas, to, form)]
        return [w - q for w, q in zip(_weights(lambdas, to, form), half, strict=True)]
    return _weights(lambdas, to, form)


def _sign_and_factor(to: Node, form: str) -> tuple[int, float]:
    return (-1, to.alpha) if form == "x0" else (1, -to.sigma)


def _weights(lambdas: Sequence[float], to: Node, form: str) -> list[float]:
    sign, factor = _sign_and_factor(to, form)
    return [factor * w for w in exponential_adams(lambdas, to.lambda_, sign)][1:]


def _second_difference(lambdas: Sequence[float], to: Node, form: str) -> list[float]:
    """Weights of the quadratic term alone: 2 h phi_3(sign h) times the second divided difference in units of h."""
    sign, factor = _sign_and_factor(to, form)
    h = to.lambda_ - lambdas[0]
    a, b = (lambdas[1] - lambdas[0]) / h, (lambdas[2] - lambdas[0]) / h
    scale = factor * 2 * h * phi(3, sign * h)
    return [scale / (a * (a - b)), scale / (b * (b - a))]


@register
@dataclass(frozen=True)
class ExponentialAdams(Method):
    """Exponential Adams of order 1 to 4 in half log-SNR lambda = log(alpha / sigma), on any grid.

    Data form (`form="x0"`), from lambda_s to lambda_t = lambda_s + h:

        x_t = (sigma_t / sigma_s) x_s + alpha_t * integral_0^h e^{u - h} P(lambda_s + u) du,

    P being the polynomial through the last `order` values of x0; noise form (`form="eps"`):

        x_t = (alpha_t / alpha_s) x_s - sigma_t * integral_0^h e^{h - u} P(lambda_s + u) du, P through values of eps.

    Order 1 is DDIM in both. Order 2 in data form is DPM-Solver++ 2M (`solver_type` ``midpoint``, the default, or
    ``heun``, which is the integral above). Order 3 is the integral above (`variant` ``corrected``), or with half of the
    quadratic term, as the "3M" solvers of the field have it (``published``): a factor 2 is missing there and the order
    is 2. The last step to clean data is of first order: the polynomial has no value at infinite lambda.

    Use it as the default: it is the most accurate family at moderate guidance. Under strong guidance at few steps
    prefer `GHVB` or `HeavyBall`.

    References: Lu et al. 2022 (arXiv 2211.01095, arXiv 2206.00927); Hochbruck and Ostermann 2010 for exponential
    multistep methods.
    """

    order: int = option(2, "Order of the multistep formula.", low=1, high=4)
    form: str = option("x0", "Field that is extrapolated: data (x0) or noise (eps).", choices=("x0", "eps"))
    variant: str = option(
        "corrected",
        "Order 3: corrected (third order) or as published (second order).",
        choices=("corrected", "published"),
    )
    solver_type: str = option("midpoint", "Second-order weights: midpoint or heun.", choices=("midpoint", "heun"))
    lower_order_final: bool = option(True, "Come down to order 1 over the last steps of runs below 15 steps.")

    name: ClassVar[str] = "exponential-adams"
    summary: ClassVar[str] = "the default: accurate at mild guidance, DPM-Solver++ 2M and its kin"
    formula: ClassVar[str] = "x' = (sigma'/sigma) x + alpha' ∫ e^(u-h) P(lambda + u) du,  P through the last x0"
    references: ClassVar[tuple[Reference, ...]] = (LU_2022,)

    @property
    def spec(self) -> Spec:
        order = 2 if self.order == 3 and self.variant == "published" else self.order
        return Spec(order, min(order, 2), "any", history=self.order - 1, operations=self.order + 3)

    def plan_steps(self, process: Process, grid: Grid) -> tuple[LinearStep, ...]:
        def weights(n: int) -> list[float]:
            order = final_orders(n, grid.calls, self.order, self.lower_order_final)
            return step_weights(process, grid, n, order, self.form, self.solver_type, self.variant)

        return linear_steps(process, grid, self.form, self.order - 1, weights)

    def advance(
        self, step: LinearStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        return advance_linear(step, x, prediction, state)


alias("dpm++ 2m", "exponential-adams", order=2)
alias("dpm++ 3m", "exponential-adams", order=3, variant="published")
alias("dpm++ 1s", "exponential-adams", order=1)
alias("dpm solver++", "exponential-adams", order=2)
alias("dpm solver", "exponential-adams", order=2, form="eps")
alias("k dpm++ 2m", "exponential-adams", order=2)
alias("res 2m", "exponential-adams", order=2, solver_type="heun")
alias("res multistep", "exponential-adams", order=2, solver_type="heun")
alias("exp adams", "exponential-adams")
