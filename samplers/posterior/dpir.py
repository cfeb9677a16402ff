"""DPIR: denoise and fit in turn, at ever lower noise levels, without any noise being drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..core.grid import Grid
from ..core.method import Reference, option
from ..core.process import Process
from .daps import node_at_ratio
from .draws import Draws
from .inset import Inset
from .method import Cost, Moved, PosteriorMethod, PosteriorPlan
from .operators import CircularBlur, GaussianBlur, Identity, LinearOperator, Mask, MirrorBlur
from .prior import Prior
from .problem import Problem
from .references import ZHANG_2021
from .registry import posterior_alias, register_posterior
from .travel import Move


def part_of(operator: LinearOperator) -> LinearOperator:
    """The operator itself, of one that sees a part of the canvas the inner one."""
    return operator.inner if isinstance(operator, Inset) and operator.inner is not None else operator


def is_denoising(problem: Problem) -> bool:
    """Whether the data are the picture and noise, nothing else."""
    return problem.sigma_y > 0 and isinstance(part_of(problem.linear), Identity)


@register_posterior
@dataclass(frozen=True, kw_only=True)
class DPIR(PosteriorMethod):
    """Half-quadratic splitting with the network as a denoiser: one estimate, no sample.

        x <- argmin_x |y - A x|^2 / sigma_y^2 + prior_weight |x - z|^2 / s^2,      z <- E[x0 | x0 + s n = x]

    at noise levels s that fall geometrically from `strongest` to `weakest` (or to sigma_y, where that is more), one
    network call each; the noise levels of the grid are not used but their number. Without noise the first line is the
    projection of DDNM. Where the data are more exact than `weakest` the run ends with the first line, so that they are
    met, otherwise with the network. The estimate lies close to the mean of the posterior, which is what PSNR asks for:
    smooth, the same for every seed, and good after 1 to 10 calls. To see what else the picture may have been, draw
    samples with the other methods.

    For denoising (A = 1) the first x is y itself and the first s is sigma_y: one call gives E[x0 | y], and further ones
    have nothing to add unless they are turned. Missing pixels start from the mean of the known ones, and blurred
    pictures with noise from themselves, since their pseudo-inverse is mostly noise.

    `relaxation` w (this package's own) carries x + w (z - x) on instead of z: with w above 1 missing pixels, which else
    creep to where they belong, get there in fewer calls. It does not change where exact data lead to in the end; with
    noisy data it multiplies `prior_weight`. The last call is never relaxed.

    With `turns` every call sees the picture turned and mirrored in another way (the publication's periodical
    self-ensemble): what a network does to one orientation alone does not add up over the calls. For denoising the
    result is then the mean of all calls. It is for networks to which no way is up, such as those of close-ups. Pictures
    that are not square are mirrored, and turned by half.

    Published settings: prior_weight 0.23, strongest 49/255 in the scale of [0, 1] (0.38 here), 8 to 24 calls.

    Reference: Zhang, Li, Zuo, Zhang, Van Gool, Timofte 2021 (arXiv 2008.13751).
    """

    strongest: float = option(0.4, "First noise level that the network is told.", low=0, high=1e3, open_low=True)
    weakest: float = option(0.02, "Last noise level, unless the data are noisier.", low=0, high=10, open_low=True)
    prior_weight: float = option(0.23, "Weight of the network's estimate against the data.", low=0, open_low=True)
    relaxation: float = option(1.0, "How far x goes towards z before the next fit; 1 is all the way.", low=0, high=2)
    turns: bool = option(False, "Turn and mirror the picture, in another way at every call.")
    rcond: float = option(0.03, "Without noise: singular values below this share count as 0.", low=0, high=1)

    name: ClassVar[str] = "dpir"
    summary: ClassVar[str] = "the most PSNR in 1 to 10 calls: an estimate near the posterior mean, no samples"
    formula: ClassVar[str] = "x = argmin ‖y - A x‖²/σ_y² + λ ‖x - z‖²/s²,  z = E[x₀ | x₀ + s n = x]"
    references: ClassVar[tuple[Reference, ...]] = (ZHANG_2021,)
    stochastic: ClassVar[bool] = False

    def plan_steps(self, process: Process, grid: Grid, moves: tuple[Move, ...]) -> tuple[tuple[float, Process], ...]:
        """How far down each call is, from 0 (the first) to 1 (the last)."""
        last = max(len(moves) - 1, 1)
        return tuple((i / last, process) for i in range(len(moves)))

    def level(self, part: float, problem: Problem) -> float:
        """The noise level s of a call."""
        if is_denoising(problem):
            return problem.sigma_y
        end = max(self.weakest, problem.sigma_y)
        start = max(self.strongest, end)
        return math.exp((1 - part) * math.log(start) + part * math.log(end))

    def start(self, plan: PosteriorPlan, problem: Problem, noise: torch.Tensor) -> torch.Tensor:
        operator = problem.linear
        inner = part_of(operator)
        blurred = problem.sigma_y > 0 and isinstance(inner, (GaussianBlur, CircularBlur, MirrorBlur))
        x = problem.y if blurred else inner.A_dagger(problem.y, self.rcond)
        if isinstance(inner, Mask):
            known = inner.A(torch.ones_like(x))
            mean = x.sum((-2, -1), keepdim=True) / known.sum((-2, -1), keepdim=True).clamp_min(1)
            x = x + (1 - known) * mean
        if isinstance(operator, Inset):  # the rest of the canvas continues the border
            (height, width), box = noise.shape[-2:], operator.box
            margin = (box.left, width - box.right, box.top, height - box.bottom)
            x = torch.nn.functional.pad(x, margin, mode="replicate")
        return x

    def fitted(self, z: torch.Tensor, level: float, problem: Problem) -> torch.Tensor:
        """The picture that explains the data and is near to z, which is told to be off by `level`."""
        if problem.sigma_y == 0 or is_denoising(problem):
            return problem.correct(z, math.inf, self.rcond)
        return problem.correct(z, level**2 / (self.prior_weight * problem.sigma_y**2))

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
        part, process = plan.steps[i]
        level = self.level(part, problem)
        node = node_at_ratio(process, level)
        before, x = x, self.fitted(x, level, problem)
        turn = i % (8 if x.shape[-2] == x.shape[-1] else 4) if self.turns else 0
        z = prior(node.alpha * x, node, turn).x0
        residual = problem.size_of(problem.residual(z))
        if is_denoising(problem):
            z = before + (z - before) / (i + 1) if self.turns and i else z
        elif self.relaxation != 1 and i + 1 < len(plan.moves):
            z = x + self.relaxation * (z - x)
        z = problem.settle(z, node)
        return Moved(z, (), z, residual)

    def cost(self, plan: PosteriorPlan) -> Cost:
        return Cost(len(plan.moves))

    def finish(self, plan: PosteriorPlan, x: torch.Tensor, problem: Problem) -> torch.Tensor:
        if problem.sigma_y >= self.weakest or is_denoising(problem):
            return x
        return self.fitted(x, self.weakest, problem)


posterior_alias("pnp", "dpir")
posterior_alias("hqs", "dpir")
