"""P2L's latent half: DPS on latents, and now and then a proximal step on the picture and back through the encoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Reference, option
from ..core.process import Node, Process
from .chain import ChainMethod, Corrected
from .draws import Draws
from .latent import CoderCost, decoded, encoded, measured, misfit
from .method import PosteriorPlan
from .prior import Prior
from .problem import Problem
from .registry import register_posterior
from .stepping import Descent, ddim_share
from .travel import Move

CHUNG_2024 = Reference(
    "chung2024p2l",
    "Hyungjin Chung and Jong Chul Ye and Peyman Milanfar and Mauricio Delbracio",
    "Prompt-tuning Latent Diffusion Models for Inverse Problems",
    2024,
    "2310.01110",
    "ICML",
)


@dataclass(frozen=True)
class ProximalDescent(Descent):
    """A move down that says whether the proximal step is due in it."""

    due: bool = False


@register_posterior
@dataclass(frozen=True, kw_only=True)
class P2L(ChainMethod):
    """Latent DPS with a projection onto what the encoder can make. Every `every`-th step, and at the last,

        x  = argmin_x |y - A x|^2 / 2 + prox_weight |x - D(z0)|^2 / 2,      z0 <- E(x),

    and at every step z' = step(z0, eps) - step_size grad_z |y - A D(z0(z))|.

    This is the half of P2L that works on latents: the published method also tunes the embedding of the prompt to the
    measurement at every step (a second pass through the network, for which it must take an embedding), and hands the
    gradient to Adam except in super-resolution. `every` = 0 leaves the proximal step out, which is `latent-dps` with a
    step of 0.05.

    Published settings: 1000 steps, latent step 0.05, prox weight 1, every 8 steps.

    Reference: Chung et al. 2024 (arXiv 2310.01110).
    """

    step_size: float = option(0.05, "Length of the gradient step.", low=0)
    prox_weight: float = option(1.0, "Weight of the decoded estimate against the data; 0 projects.", low=0)
    every: int = option(8, "Steps from one proximal step to the next; 0 takes none.", low=0)
    loss: str = option("norm", "Misfit: its norm or its square.", choices=("norm", "squared"))
    eta: float = option(0.0, "Fresh noise of the step: 1 ancestral (DDPM), 0 none (DDIM).", low=0, high=1)
    rcond: float = option(0.03, "With prox_weight 0: singular values below this share count as 0.", low=0, high=1)

    name: ClassVar[str] = "p2l"
    summary: ClassVar[str] = "latents: gradient steps, and a proximal step on the picture now and then"
    formula: ClassVar[str] = "ẑ₀ ← E(argmin ‖y - A x‖² + λ ‖x - D(ẑ₀)‖²),  z' = DDIM(ẑ₀, ε) - ζ ∇_z ‖y - A D(ẑ₀)‖"
    references: ClassVar[tuple[Reference, ...]] = (CHUNG_2024,)
    gradient: ClassVar[bool] = True
    space: ClassVar[str] = "latent"

    def share(self, node: Node, to: Node) -> float:
        return ddim_share(node, to, self.eta)

    def plan_steps(self, process: Process, grid: Grid, moves: tuple[Move, ...]) -> tuple[Any, ...]:
        steps, done = super().plan_steps(process, grid, moves), 0
        made: list[ProximalDescent | None] = []
        last = sum(not move.up for move in moves)
        for step in steps:
            if step is None:
                made.append(None)
                continue
            done += 1
            due = self.every > 0 and (done % self.every == 0 or done == last)
            made.append(ProximalDescent(**{f.name: getattr(step, f.name) for f in dataclasses.fields(step)}, due=due))
        return tuple(made)

    def estimate(self, step: Descent, x: torch.Tensor, prior: Prior, problem: Problem, draws: Draws) -> Corrected:
        said = prior.trace(x, step.node)
        with torch.enable_grad():
            picture = decoded(problem, said.x0)
            residual = measured(problem, picture)
            loss = self.step_size * misfit(residual, self.loss)
        gradient, x0 = said.gradient(loss), said.x0.detach()
        if isinstance(step, ProximalDescent) and step.due:
            gamma = 1 / self.prox_weight if self.prox_weight > 0 else float("inf")
            x0 = encoded(problem, problem.correct(picture.detach(), gamma, self.rcond), x0)
        return Corrected(x0, said.eps, problem.size_of(residual), -gradient)

    def coder_cost(self, plan: PosteriorPlan) -> CoderCost:
        """Evaluations of the decoder and the encoder."""
        calls = self.cost(plan).forward
        due = sum(step is not None and step.due for step in plan.steps)
        return CoderCost(calls, due, calls)
