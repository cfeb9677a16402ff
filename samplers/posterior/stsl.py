"""STSL: a few gradient steps on a surrogate loss at every noise level, then one step down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch

from ..core.method import Reference, option
from ..core.process import Node
from ..core.registry import nearest
from .chain import ChainMethod, Corrected
from .draws import Draws
from .latent import CoderCost, decoded, gluing, lifted, measured, misfit, needs_linear
from .method import Cost, Moved, PosteriorPlan
from .prior import Prior
from .problem import Problem
from .registry import posterior_alias, register_posterior
from .stepping import Descent, ddim_share
from .trace_probe import PROBES, probe_step, probed_trace, score

ROUT_2024 = Reference(
    "rout2024stsl",
    "Litu Rout and Yujia Chen and Abhishek Kumar and Constantine Caramanis and Sanjay Shakkottai and Wen-Sheng Chu",
    "Beyond First-Order Tweedie: Solving Inverse Problems using Latent Diffusion",
    2024,
    "2312.00852",
    "CVPR",
)

#: Noise levels of both presets; the grid is the caller's.
STEPS = 50

#: Fields that a preset sets, by its name; every other field keeps its default.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper": {"inner_steps": 5, "hessian_weight": 0.02, "probe": "unit", "eta": 0.0, "lift": "adjoint"},
}


@register_posterior
@dataclass(frozen=True, kw_only=True)
class STSL(ChainMethod):
    """Second-order Tweedie sampler from a surrogate loss. At every noise level `inner_steps` times

        z <- z - grad_z { data_weight |y - A D(z0)| + hessian_weight n^T (s(z + delta n) - s(z)) / (delta d)
                          + gluing_weight |E(A^+ y + (1 - A^+ A) D(z0)) - z0| }

    with z0, s the clean estimate and the score at z, n ~ N(0, 1), d latent coordinates; then one step of DDIM. It
    starts from the noised encoding of the measurement. delta is 1 (``probe="unit"``) or `probe_scale` sigma
    (``"relative"``); at low noise a unit probe lands far from anything that the network knows.

    The second term asks for a smaller trace of the Hessian of log p. It vanishes for a Gaussian prior; in mixtures with
    closed-form posteriors it did not help at any weight and harmed at the published one, while several inner steps with
    fresh noise after them did. So it is off here, and on in the preset "paper" ("stsl-paper"): 5 inner steps, weight
    0.02, unit probe, DDIM, started from E(A^T y). `moment-matching` is the second-order method that is exact for
    Gaussians.

    A level costs inner_steps forward and backward evaluations and one forward more; with the second term
    2 inner_steps + 1 forward, every backward through two graphs of the network. The probes are drawn even if
    hessian_weight is 0 (not so with ``probe="none"``), so that runs with and without the term share all other noise.

    With ``init="noise"`` and gluing_weight 0 any differentiable operator will do. ``init="ddim-inversion"`` takes what
    it starts from (the encoding, or a start of your own) for clean latents, and walks up from it by DDIM: one call a
    noise level, and all samples of one measurement are nearly alike.

    Published settings: 50 steps, Stable Diffusion 1.4 or 1.5 at 512 x 512.

    Reference: Rout et al. 2024 (arXiv 2312.00852).
    """

    inner_steps: int = option(2, "Gradient steps at every noise level.", low=1)
    data_weight: float = option(1.0, "Weight of the misfit.", low=0)
    loss: str = option("norm", "Misfit: its norm or its square.", choices=("norm", "squared"))
    hessian_weight: float = option(0.0, "Weight of the second-order term; 0 leaves its network calls out.", low=0)
    probe: str = option("relative", "Length of the probe of the second-order term.", choices=PROBES)
    probe_scale: float = option(0.3, "Length of a relative probe in units of the noise.", low=0, open_low=True)
    gluing_weight: float = option(0.0, "Weight of the gluing term of PSLD; 0 leaves the encoder out.", low=0)
    eta: float = option(1.0, "Fresh noise of the step: 1 ancestral (DDPM), 0 none (DDIM).", low=0, high=1)
    init: str = option(
        "forward",
        "Start: the noised encoding of the measurement, noise alone, or that encoding inverted by DDIM.",
        choices=("forward", "noise", "ddim-inversion"),
    )
    lift: str = option(
        "pseudo-inverse", "How the measurement is made a picture to start from.", choices=("pseudo-inverse", "adjoint")
    )
    rcond: float = option(0.03, "Singular values below this share of the largest count as 0.", low=0, high=1)

    name: ClassVar[str] = "stsl"
    summary: ClassVar[str] = "latents in some 50 noise levels: inner gradient steps, second-order term optional"
    formula: ClassVar[str] = "z ← z - ∇_z { λ ‖y - A D(ẑ₀)‖ + (η/d) nᵀ[s(z + δn) - s(z)]/δ },  K times, then DDIM"
    references: ClassVar[tuple[Reference, ...]] = (ROUT_2024,)
    needs: ClassVar[str] = "forward"
    gradient: ClassVar[bool] = True
    space: ClassVar[str] = "latent"

    @classmethod
    def preset(cls, name: str = "default", **fields: Any) -> STSL:
        """The method with the fields of a preset, some set by hand.

        Raises:
            ValueError: unknown preset (the nearest is suggested), field out of range.
        """
        key = str(name).strip().lower()
        if key not in PRESETS:
            raise ValueError(f"unknown preset {name!r} of stsl{nearest(key, list(PRESETS))} Known are default, paper")
        return cls(**{**PRESETS[key], **fields})

    @property
    def second_order(self) -> bool:
        """Whether the term of the trace is there, and its network calls with it."""
        return self.hessian_weight > 0 and self.probe != "none"

    def check(self, problem: Problem) -> None:
        if self.gluing_weight > 0:
            needs_linear(problem, self.name, "set gluing_weight to 0")
        if self.init != "noise":
            needs_linear(problem, self.name, "set init to 'noise'")

    def share(self, node: Node, to: Node) -> float:
        return ddim_share(node, to, self.eta)

    def start(self, plan: PosteriorPlan, problem: Problem, noise: torch.Tensor) -> torch.Tensor:
        if self.init == "noise":
            return super().start(plan, problem, noise)
        latents = lifted(problem, self.lift == "adjoint", noise, self.rcond)
        if self.init == "ddim-inversion":
            return latents
        node = plan.grid.nodes[0]
        return node.alpha * latents + node.sigma * noise

    def inner_step(
        self, node: Node, z: torch.Tensor, prior: Prior, problem: Problem, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One gradient step on the surrogate loss at a noise level: for editing, too, between steps of another sampler.

        Args:
            node: noise level of z.
            z: latents, (B, ...).

        Returns:
            The latents after it, (B, ...), and the residual y - A D(z0) before it.
        """
        said = prior.trace(z, node)
        normal = None if self.probe == "none" else draws.normal(z)
        with torch.enable_grad():
            picture = decoded(problem, said.x0)
            residual = measured(problem, picture)
            loss = self.data_weight * misfit(residual, self.loss)
            if self.gluing_weight > 0:
                loss = loss + self.gluing_weight * gluing(problem, picture, said.x0, self.rcond)
        if not self.second_order or normal is None:
            return z - said.gradient(loss), residual
        delta = probe_step(self.probe, self.probe_scale, node)
        moved = prior.trace(z + delta * normal, node)
        with torch.enable_grad():
            trace = probed_trace(normal, score(node, said.x, said.x0), score(node, moved.x, moved.x0), delta)
            total = (loss + self.hessian_weight * trace).sum()
        prior.backward += 1
        here, there = torch.autograd.grad(total, (said.x, moved.x))
        return z - (here + there), residual

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        z, residual = self.inner_step(step.node, x, prior, problem, draws)
        for _ in range(self.inner_steps - 1):
            z, _ = self.inner_step(step.node, z, prior, problem, draws)
        said = prior(z, step.node)
        return Corrected(said.x0, said.eps, problem.size_of(residual), x=z)

    def step(
        self,
        plan: PosteriorPlan,
        i: int,
        x: torch.Tensor,
        prior: Prior,
        problem: Problem,
        draws: Draws,
        state: Any = (),
    ) -> Moved:
        if i == 0 and self.init == "ddim-inversion":
            for low, high in pairwise(reversed(plan.grid.nodes)):
                eps = prior(x, high).eps
                x = high.alpha * (x - low.sigma * eps) / low.alpha + high.sigma * eps
        return super().step(plan, i, x, prior, problem, draws, state)

    def cost(self, plan: PosteriorPlan) -> Cost:
        down, calls = sum(not move.up for move in plan.moves), 2 if self.second_order else 1
        inverted = plan.grid.calls if self.init == "ddim-inversion" else 0
        return Cost(down * (self.inner_steps * calls + 1) + inverted, down * self.inner_steps)

    def coder_cost(self, plan: PosteriorPlan) -> CoderCost:
        """Evaluations of the decoder and the encoder; without the encoding of the start if that is given."""
        inner = sum(not move.up for move in plan.moves) * self.inner_steps
        glued = inner if self.gluing_weight > 0 else 0
        return CoderCost(inner, glued + (self.init != "noise"), inner, glued)


posterior_alias("stsl-paper", "stsl", **PRESETS["paper"])
