"""Heavy ball: the slope of a multistep method, averaged with its own past, against divergence under strong guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Method, Reference, Spec, State, Stored, combine, evaluate, option, transport
from ..core.process import Linear, Process, ddim, field_of
from ..core.registry import alias, register
from ..core.stability import (
    critical_guidance_exponential,
    critical_guidance_heavy_ball,
    damping_for,
    lowest_damping,
)
from .adams_bashforth import slope_weights
from .exponential_adams import final_orders, step_weights

WIZADWONGSA_2023 = Reference(
    "wizadwongsa2023momentum",
    "Suttisak Wizadwongsa and Worameth Chinchuthakun and Pramook Khungurn and Amit Raj and Supasorn Suwajanakorn",
    "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts",
    2023,
    "2307.11118",
    "International Conference on Learning Representations (2024)",
)


@dataclass(frozen=True)
class VelocityStep:
    """keep * v + sum_j shares[j] * kept[j] becomes the velocity; x' = base(x, p) + gain * v' + gain_old * v.

    `shares` is None where the step is of first order and leaves the velocity alone, `keep` 0 where there is none yet.
    """

    base: Linear
    store: Linear
    gain: float
    shares: tuple[float, ...] | None
    keep: float
    had_velocity: bool
    history: int
    gain_old: float = 0.0


def split_momentum(momentum: float) -> tuple[int, float]:
    """(order, damping) of a momentum number m: order = ceil(m), damping = m - (order - 1). 2.3: (3, 0.3), 2: (2, 1).

    The number is a name, not an order (Wizadwongsa et al. 2023).
    """
    momentum = round(momentum, 9)  # 1.9999999999 from arithmetic means 2
    if momentum <= 0:
        raise ValueError("a momentum number must be at least 1e-9")
    order = math.ceil(momentum)
    return order, round(momentum - (order - 1), 9)


def advance_velocity(
    step: VelocityStep, x: torch.Tensor, prediction: torch.Tensor, state: State
) -> tuple[torch.Tensor, State]:
    """Take a `VelocityStep`; the state is the velocity, if there is one, and the last values of the field."""
    velocity = state[0] if step.had_velocity else None
    past = state[1:] if step.had_velocity else state
    kept = evaluate(step.store, x, prediction)
    new = velocity
    if step.shares is not None:
        first = step.shares[0]
        new = kept * first if velocity is None else (velocity * step.keep).add_(kept, alpha=first)
        for share, old in zip(step.shares[1:], past, strict=False):
            if share != 0.0:
                new.add_(old, alpha=share)
    terms = [(gain, v) for gain, v in ((step.gain, new), (step.gain_old, velocity)) if v is not None]
    result = combine(step.base, x, prediction, terms)
    fields = (kept, *past)[: step.history]
    return result, fields if new is None else (new, *fields)


@register
@dataclass(frozen=True)
class HeavyBall(Method):
    """Heavy ball (HB) on Adams-Bashforth or on exponential Adams: average the high-order slope before using it.

        v <- (1 - beta) v + beta a_n,      x_bar' = x_bar + delta v,

    a_n being the Adams-Bashforth combination of the last `order` slopes (v starts as the first slope), or the data
    prediction that exponential Adams would use, x' = (sigma'/sigma) x + alpha' (1 - e^{-h}) v. On the latter, steps of
    first order (the first, and the last to clean data) take no momentum and leave v alone; `order` 2 is DPM-Solver++ 2M
    with HB.

    beta = `damping` = 1 is the base method. Below 1 the stable range of guidance grows without bound as beta -> 0, and
    the order falls to 1: error / DDIM's error -> 2 (1 - beta) / beta, so beta < 2/3 is worse than DDIM where nothing
    diverges. Use 0.8 to 0.9 under strong guidance.

    ``momentum`` may name order and damping at once and overrides the two (1.8 is order 2, damping 0.8), or be
    ``"auto"`` (this package's own): each step then takes the largest damping number whose critical guidance
    (`fewstep.samplers.core.stability`) reaches `guidance_scale`; steps that are stable as they are keep the base's
    order. A damping below 3 / steps is not used.

    Reference: Wizadwongsa et al. 2023 (arXiv 2307.11118), sections 3.2 and 4; Polyak 1964.
    """

    base: str = option("adams-bashforth", "Method that is averaged.", choices=("adams-bashforth", "exponential-adams"))
    order: int = option(2, "Order of the base.", low=1, high=4)
    damping: float | str = option(
        0.8, "beta: share of the slope at hand; 1 is no momentum, 'auto' by stability.", low=0, high=1, open_low=True,
        words=("auto",),
    )  # fmt: skip
    momentum: float | str | None = option(
        None, "Order and damping in one number (1.8: order 2, damping 0.8), or 'auto'.", low=0, high=4, open_low=True,
        words=("auto",),
    )  # fmt: skip
    guidance_scale: float = option(7.5, "Guidance scale of the run; used by 'auto' alone.", low=0)
    solver_type: str = option("midpoint", "Second-order weights of exponential Adams.", choices=("midpoint", "heun"))
    lower_order_final: bool = option(
        True, "Exponential Adams: come down to order 1 over the last steps of runs below 15 steps."
    )

    name: ClassVar[str] = "heavy-ball"
    summary: ClassVar[str] = "strong guidance at few steps, the strongest damping; first order"
    formula: ClassVar[str] = "v ← (1-β) v + β a_n,  x̄' = x̄ + δ v"
    references: ClassVar[tuple[Reference, ...]] = (WIZADWONGSA_2023,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base == "exponential-adams":
            order = self.numbers[0]
            if order == 1:
                raise ValueError(
                    "heavy ball on exponential-adams needs order 2 or more: steps of first order take no momentum"
                )
            if self.automatic and order > 2:
                raise ValueError("automatic momentum on exponential-adams exists for order 2 alone")

    @property
    def automatic(self) -> bool:
        return "auto" in (self.damping, self.momentum)

    @property
    def numbers(self) -> tuple[int, float]:
        """(order, damping) in force; damping 1 stands for what is chosen per step."""
        if isinstance(self.momentum, int | float):
            return split_momentum(self.momentum)
        return self.order, 1.0 if self.automatic else float(self.damping)

    @property
    def spec(self) -> Spec:
        order, damping = self.numbers
        full = damping == 1.0 and not self.automatic
        exponential = self.base == "exponential-adams"
        needs = "equal steps" if full and not exponential and order > 2 else "any"
        reached = order if full else 1
        return Spec(reached, min(reached, 2), needs, history=order, operations=order + 4)

    def dampings(self, grid: Grid) -> list[float]:
        """Damping of every step."""
        order, damping = self.numbers
        if not self.automatic:
            return [damping] * grid.calls
        chosen: list[float] = []
        lowest = lowest_damping(grid.calls)
        for n, (node, to) in enumerate(pairwise(grid.nodes)):
            q = to.ratio / node.ratio if node.ratio > 0 else math.inf
            if q > 1 or math.isinf(node.ratio):  # towards noise, or nothing averaged yet: no guided stiffness
                chosen.append(1.0)
                continue
            if n == grid.calls - 1 and chosen:  # nothing can grow any more
                chosen.append(chosen[-1])
                continue

            def critical(beta: float, q: float = q) -> float:
                if self.base == "exponential-adams":
                    return critical_guidance_exponential(beta, q)
                return critical_guidance_heavy_ball(order, beta, q)

            chosen.append(damping_for(self.guidance_scale, critical, lowest) or lowest)
        return chosen

    def plan_steps(self, process: Process, grid: Grid) -> tuple[VelocityStep, ...]:
        order, _ = self.numbers
        kind = "slope" if self.base == "adams-bashforth" else "x0"
        nodes = grid.nodes
        kept = [Stored.of(field_of(process, kind, node)) for node in nodes[:-1]]
        steps: list[VelocityStep] = []
        velocity = False
        for n, (beta, node, to) in enumerate(zip(self.dampings(grid), nodes[:-1], nodes[1:], strict=True)):
            shares: list[float] | None
            a, c = transport(process, node, to, kind)
            if kind == "slope":
                shares = slope_weights(process, grid, n, order, "fixed")[0]
            else:
                lowered = final_orders(n, grid.calls, order, self.lower_order_final)
                w = step_weights(process, grid, n, lowered, "x0", self.solver_type, "corrected")
                shares = [1 - math.fsum(w) / c, *(v / c for v in w)] if w else None
            if shares is None or not math.isfinite(c):
                base, gain = ddim(process, node, to), 0.0
            else:
                base, gain = Linear(a, 0.0), c
            keep = 1 - beta if velocity else 0.0
            scaled = None
            if shares is not None:
                scaled = tuple((1 - keep) * s * kept[n - j].scale for j, s in enumerate(shares))
            steps.append(VelocityStep(base, kept[n].form, gain, scaled, keep, velocity, order - 1))
            velocity = velocity or shares is not None
        return tuple(steps)

    def advance(
        self, step: VelocityStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        return advance_velocity(step, x, prediction, state)


alias("plms hb", "heavy-ball", order=4, damping=0.9)
alias("dpm++ 2m hb", "heavy-ball", base="exponential-adams", order=2, damping=0.8)
