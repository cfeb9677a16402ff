"""LML, the Levenberg-Marquardt-Langevin sampler: turn the update away from the previous one, keep its length.

In the form shipped here a step costs three reductions and no network call, and is free of the cancellation that makes
the literal form return rounding noise at its published settings.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Method, Reference, Spec, State, Stored, combine, evaluate, option, transport
from ..core.process import Linear, Process, ddim, field_of
from ..core.registry import alias, register
from .exponential_adams import final_orders, step_weights

WANG_2025 = Reference(
    "wang2025lml",
    "Fangyikang Wang and Hubery Yin and Lei Qian and Yinan Li and Shaobin Zhuang and Huminhao Zhu and Yilin Zhang "
    "and Yanlong Tang and Chao Zhang and Hanbin Zhao and Hui Qian and Chen Li",
    "Unleashing High-Quality Image Generation in Diffusion Sampling Using Second-Order Levenberg-Marquardt-Langevin",
    2025,
    "2505.24222",
    "IEEE/CVF International Conference on Computer Vision",
)


def correct(
    u: torch.Tensor,
    previous: torch.Tensor,
    kappa: float,
    damping: float,
    relative: bool = True,
    gamma: float | None = None,
    gamma_max: float | None = None,
) -> torch.Tensor:
    """C(u; p): rotate `u` away from `previous` (p) by arctan(gamma |p_perp| / |u|), per sample, length kept.

        p_perp = p - (<u,p>/N) u,  N = |u|^2,  P = |p_perp|^2,  <u,m> = (1 - kappa) N + kappa <u,p>
        gamma = kappa <u,m> / (lambda + kappa^2 P),      C(u) = (u - gamma p_perp) / sqrt(1 + gamma^2 P / N)

    with lambda = `damping`, times N if `relative`. Equal to the published
    ``r = u - m <u,m> / (lambda + |m|^2), C = r |u| / |r|, m = kappa p + (1 - kappa) u`` in exact arithmetic.

    Args:
        u, previous: (B, ...), float32 or float64; norms and products run over all but the first dimension.
        gamma: use this strength instead of the one that kappa and damping give.
        gamma_max: clip gamma to [-gamma_max, gamma_max].
    """
    flat, past = u.reshape(len(u), -1), previous.reshape(len(u), -1)
    # a zero update stays zero: its gamma is 0, or the factor in front is
    n = (flat * flat).sum(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    product = (flat * past).sum(1, keepdim=True)
    across = torch.addcmul(past, product / n, flat, value=-1)
    p = (across * across).sum(1, keepdim=True)
    if gamma is None:
        lam = n * damping if relative else damping
        pull = torch.add(n * (kappa * (1 - kappa)), product, alpha=kappa * kappa)
        strength = pull / (p * (kappa * kappa) + lam)
    else:
        strength = torch.full_like(n, gamma)
    if gamma_max is not None:
        strength = strength.clamp(-gamma_max, gamma_max)
    shrink = torch.rsqrt(strength * strength * p / n + 1)
    return (torch.addcmul(flat, strength, across, value=-1) * shrink).reshape(u.shape)


@dataclass(frozen=True)
class LMLStep:
    """u = increment(x, p) + sum_j history[j] kept[j]; x' = base(x, p) + gain C(u).

    `keep` is the number of earlier field values, `correct` whether a previous update exists; `store` is None where no
    later step needs the field, `remember` says whether u is a previous update for the next step.
    """

    base: Linear
    increment: Linear
    gain: float
    history: tuple[float, ...]
    store: Linear | None
    keep: int
    has_previous: bool
    correct: bool
    remember: bool


@register
@dataclass(frozen=True)
class LML(Method):
    """LML on a base solver: x' = b x + C(u), u being the base's update and C the rotation of `correct`.

    =====================  =============================================  =========================================
    base                   corrected vector u                             step
    =====================  =============================================  =========================================
    ``exponential-adams``  the whole increment of exponential Adams of    x' = b x + C(u), b = alpha'/alpha (eps)
                           `order` in `form`                              or sigma'/sigma (x0)
    ``euler``              slope of the ODE (eps; velocity of a flow)     x_bar' = x_bar + delta C(u): "DDIM full",
                                                                          flow Euler
    ``ddim``               eps, in the direction term only, as published  x' = alpha' x0 + sigma' C(eps)
    =====================  =============================================  =========================================

    The rotation acts through one number, gamma ~ kappa / damping (relative) or kappa N / damping (absolute). With
    ``damping_mode="relative"`` the damping is a share of N = |u|^2 and means the same at every resolution, step count
    and guidance. kappa = 0, the published default, is the base solver itself, whatever the damping; a warning says so.

    Use kappa 0.05, damping 0.2 (mild) or 0.1 (strong) on first-order bases at few steps: it restores spread and
    brings samples nearer to the data law, not nearer to the ODE's solution. On order 2 and 3 it helps below about 10
    steps only. With ``ddim`` the useful range is kappa < 0, and a fixed gamma leaves an error that no number of steps
    removes (declared order 0).

    Reference: Wang et al. 2025 (arXiv 2505.24222); the closed form, gamma and relative damping are this package's own.
    """

    base: str = option(
        "exponential-adams", "Solver whose update is corrected.", choices=("exponential-adams", "euler", "ddim")
    )
    order: int = option(1, "Order of the exponential-adams base.", low=1, high=3)
    form: str = option("eps", "Field of the exponential-adams base: noise (eps) or data (x0).", choices=("eps", "x0"))
    kappa: float = option(0.05, "History weight; 0 is the base solver, negative turns the other way.", low=-10, high=10)
    damping: float = option(0.2, "Levenberg-Marquardt damping lambda.", low=0, open_low=True)
    damping_mode: str = option(
        "relative", "Damping as a share of |u|^2 or as an absolute number.", choices=("relative", "absolute")
    )
    gamma: float | None = option(
        None, "Use this strength of the rotation instead of kappa and damping.", low=-100, high=100
    )
    gamma_max: float | None = option(None, "Largest strength of the rotation.", low=0, open_low=True)
    freeze: float = option(0.0, "Share of the run's steps, from its start, without correction.", low=0, high=1)
    solver_type: str = option("midpoint", "Second-order weights of the base.", choices=("midpoint", "heun"))
    lower_order_final: bool = option(True, "Come down to order 1 over the last steps of runs below 15 steps.")

    name: ClassVar[str] = "lml"
    summary: ClassVar[str] = "5 to 10 steps on a first-order base: restores spread and texture"
    formula: ClassVar[str] = "x' = b x + C(u),  C(u) = (u - γ p⊥) / sqrt(1 + γ² |p⊥|²/|u|²)"
    references: ClassVar[tuple[Reference, ...]] = (WANG_2025,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.active:
            warnings.warn("LML with kappa = 0 equals its base solver: nothing is corrected", UserWarning, stacklevel=3)

    @property
    def active(self) -> bool:
        return self.kappa != 0 if self.gamma is None else self.gamma != 0

    @property
    def spec(self) -> Spec:
        order = self.order if self.base == "exponential-adams" else 1
        history = order - 1 + self.active
        if self.active and self.base == "ddim":
            reached = 0
        elif self.active and (self.gamma is not None or self.damping_mode == "relative"):
            reached = 1
        else:
            reached = order
        return Spec(reached, min(reached, 2), "any", history=history, operations=order + 3 + 24 * self.active)

    def plan_steps(self, process: Process, grid: Grid) -> tuple[LMLStep, ...]:
        exponential = self.base == "exponential-adams"
        kind = self.form if exponential else "slope" if self.base == "euler" else "eps"
        order = self.order if exponential else 1
        nodes = grid.nodes
        kept = [Stored.of(field_of(process, kind, node)) for node in nodes[:-1]]
        steps = []
        previous = False
        for n, (node, to) in enumerate(pairwise(nodes)):
            field = field_of(process, kind, node)
            history: tuple[float, ...] = ()
            if exponential:
                lowered = final_orders(n, grid.calls, order, self.lower_order_final)
                w = step_weights(process, grid, n, lowered, self.form, self.solver_type, "corrected")
                a, c = transport(process, node, to, self.form)
                base, increment, gain = Linear(a, 0.0), (c - math.fsum(w)) * field, 1.0
                history = tuple(v * kept[n - 1 - j].scale for j, v in enumerate(w))
            elif self.base == "euler":
                a, c = transport(process, node, to, "slope")
                base, increment, gain = Linear(a, 0.0), field, c
            else:
                a, c = 1.0, to.sigma
                base, increment, gain = to.alpha * process.x0(node), field, to.sigma
            start = not math.isfinite(a) or not math.isfinite(c)
            if start:  # from pure noise the update cannot be told from the linear part: one plain first-order step
                base, gain = ddim(process, node, to), 0.0
                increment = field if not exponential else Linear(0.0, 0.0)
            frozen = n < self.freeze * grid.calls
            remember = self.active and n < grid.calls - 1 and not (start and exponential)
            steps.append(
                LMLStep(
                    base,
                    increment,
                    gain,
                    history,
                    kept[n].form if order > 1 and n < grid.calls - 1 else None,
                    order - 1,
                    previous,
                    previous and gain != 0.0 and not frozen,
                    remember,
                )
            )
            previous = remember
        return tuple(steps)

    def advance(
        self, step: LMLStep, x: torch.Tensor, prediction: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        previous = state[0] if step.has_previous else None
        past = state[1:] if step.has_previous else state
        u = combine(step.increment, x, prediction, zip(step.history, past, strict=False))
        turned = u
        if step.correct and previous is not None and previous.shape == u.shape:
            relative = self.damping_mode == "relative"
            turned = correct(u, previous, self.kappa, self.damping, relative, self.gamma, self.gamma_max)
        result = combine(step.base, x, prediction, [(step.gain, turned)])
        fields: State = ()
        if step.store is not None:
            fields = (evaluate(step.store, x, prediction), *past)[: step.keep]
        return result, (u, *fields) if step.remember else fields


alias("lml ddim", "lml", base="ddim", kappa=-0.05)
alias("lml euler", "lml", base="euler")
