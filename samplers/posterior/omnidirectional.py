"""Panoramas of the whole sphere with a network that knows flat pictures: 18 tangent planes that inform one another.

At every noise level the clean estimates of all planes are blended to one panorama, that panorama is corrected with the
measurement, and its planes pull the estimates towards themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.grid import Grid
from ..core.process import Node, Process
from ..core.run import Denoiser
from .chain import ChainMethod
from .ddnm import DDNM
from .diffpir import LARGEST_RATIO
from .draws import Draws, Generators
from .method import Moved, PosteriorMethod
from .operators.base import Operator
from .operators.foreign import as_operator
from .operators.pointwise import Mask
from .problem import EIGHT_BIT_SIGMA, Problem
from .run import Callback, PosteriorResult, run_posterior
from .sphere import TangentPlanes

Map = Callable[[torch.Tensor], torch.Tensor]


def _in_parts(function: Map, x: torch.Tensor, batch: int) -> torch.Tensor:
    return torch.cat([function(part) for part in x.split(batch)])


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def run_omnidirectional(
    denoiser: Denoiser,
    process: Process,
    grid: Grid,
    operator: Operator | Any,
    y: torch.Tensor,
    *,
    size: tuple[int, int],
    side: int,
    sigma_y: float = 0.0,
    method: PosteriorMethod | None = None,
    fov: float = 75.0,
    gamma_latent: float = 0.5,
    gamma_erp: float = 1.0,
    gamma_post: float = 1.0,
    rcond: float = 0.03,
    batch: int = 6,
    decode: Map | None = None,
    encode: Map | None = None,
    start: torch.Tensor | None = None,
    generator: Generators = None,
    callback: Callback | None = None,
) -> PosteriorResult:
    """OmniSSR: restore panoramas (equirectangular, the left edge meets the right) by their tangent planes.

    With the clean estimates z_i of the planes, P_i the projection to plane i, D and E decoder and encoder:

        S = blend(clip(D(z_i))),    S <- S + gamma_erp A^+(y - A S),    z_i <- (1 - gamma_latent) z_i + gamma_latent
        E(clip(P_i S)).

    The start is the forward-noised E(P_i A^+ y); the result blend(D(z_i)), corrected once more with `gamma_post`. The
    noise that planes keep in a step is the network's. With noise in y the correction is that of the proximal map,
    argmin |y - A x|^2 / sigma_y^2 + |x - S|^2 / u^2 with u = sigma / alpha (this package's own), at the end with the u
    of the last noise level. Where the noise is strong the panorama is then what the prior says rather than y, so it is
    nearer to the truth than the exact correction only as far as the prior knows what the truth looks like.

    Args:
        denoiser, process, grid: the prior of flat pictures (or latents) and the noise levels.
        operator, y: linear, of the whole panorama, (B, ...).
        size: (H, W) of the panorama.
        side: of a plane in pixels, what the network (or the decoder) makes.
        sigma_y: noise of y, in the scale of [-1, 1]; that of rounding to 8 bits (`EIGHT_BIT_SIGMA`) counts as none.
        method: how the planes walk down the noise levels; DDPM's ancestral steps by default. It sees no data itself.
        fov: field of view of a plane in degrees.
        gamma_latent: how much the planes take from one another, 0 to 1; 0 leaves them independent.
        gamma_erp: weight of the data at every noise level, 0 to 1; 0 is blending alone.
        gamma_post: the same at the end.
        rcond: without noise, singular values below this share of the largest count as 0.
        batch: most planes in the network, the decoder and the encoder at a time.
        decode, encode: between latents and pictures, for a latent prior.
        start: samples of all planes at the first node, (18 B, c, s, s), plane by plane of the first panorama, then
            those of the next.
        generator: one a panorama, one for all, or none.
        callback: as for `run_posterior`, counted through all panoramas; it sees the planes of one.

    Returns:
        Panoramas (B, C, H, W); the trace is the misfit of the blended estimates before the data; `forward` counts calls
        on all 18 planes.

    Raises:
        ValueError: a weight out of range, a decoder without an encoder, y that does not fit; a method that wants data.
        TypeError: a nonlinear operator.

    Reference: Li, Sheng, Li, Zhang 2024 (arXiv 2404.10312).
    """
    for name, weight in (("gamma_latent", gamma_latent), ("gamma_erp", gamma_erp), ("gamma_post", gamma_post)):
        if not 0 <= weight <= 1:
            raise ValueError(f"{name} must be 0 to 1, got {weight!r}")
    if (decode is None) != (encode is None):
        raise ValueError("a latent prior needs both a decoder and an encoder")
    if not y.is_floating_point() or not len(y) or not torch.isfinite(y).all():
        raise ValueError("a measurement is a batch of at least one, of finite floating-point numbers")
    if batch < 1:
        raise ValueError(f"at least one plane must go through the network at a time, got {batch!r}")
    walks = DDNM(eta=1.0) if method is None else method
    if not isinstance(walks, ChainMethod) or walks.gradient or walks.space == "latent":
        raise ValueError(f"planes are steered by the panorama, and {walks.name} wants data of its own; take ddnm")
    y = y if y.dtype == torch.float64 else y.float()
    if isinstance(generator, Sequence) and len(generator) != len(y):
        raise ValueError(f"{len(generator)} generators were given for {len(y)} panoramas")
    planes = TangentPlanes(size, side, fov)
    if start is not None and len(start) != len(planes) * len(y):
        raise ValueError(f"start holds {len(start)} planes, and {len(y)} panoramas have {len(planes) * len(y)}")
    linear = Problem(as_operator(operator, y), y, sigma_y).linear
    task = _Sphere(
        denoiser, walks, process, grid, planes, decode or _same, encode or _same, batch, rcond,
        gamma_latent, gamma_erp, gamma_post,
    )  # fmt: skip
    moves, found = len(walks.moves(grid)), []
    for b in range(len(y)):

        def told(i: int, moved: Moved, b: int = b) -> torch.Tensor | None:
            return None if callback is None else callback(b * moves + i, moved)

        source = generator[b] if isinstance(generator, Sequence) else generator
        first = None if start is None else start[b * len(planes) : (b + 1) * len(planes)]
        found.append(task.run(Problem(linear, y[b : b + 1], sigma_y), first, source, told))
    return PosteriorResult(
        torch.cat([one.sample for one in found]),
        torch.cat([one.residual for one in found]),
        torch.cat([one.trace for one in found], 1),
        sum(one.forward for one in found),
        sum(one.backward for one in found),
    )


@dataclass(frozen=True)
class _Sphere:
    """Settings of a run, and the run of one panorama."""

    denoiser: Denoiser
    method: PosteriorMethod
    process: Process
    grid: Grid
    planes: TangentPlanes
    decode: Map
    encode: Map
    batch: int
    rcond: float
    gamma_latent: float
    gamma_erp: float
    gamma_post: float

    def pictured(self, x0: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """blend(clip(D(x0)))."""
        return self.planes.panorama(_in_parts(self.decode, x0, self.batch).to(like).clamp(-1, 1))

    def seen(self, sphere: torch.Tensor) -> torch.Tensor:
        """E(clip(P_i S))."""
        return _in_parts(self.encode, self.planes.planes(sphere).clamp(-1, 1), self.batch).to(sphere)

    def corrected(self, problem: Problem, sphere: torch.Tensor, weight: float, node: Node) -> torch.Tensor:
        """S with the data in it."""
        if weight == 0:
            return sphere
        ratio = min(node.ratio, LARGEST_RATIO)
        noisy = problem.sigma_y > EIGHT_BIT_SIGMA * (1 + 1e-6)  # the rounding of a file is projected away
        gamma = (ratio / problem.sigma_y) ** 2 if noisy else math.inf
        return sphere + weight * (problem.correct(sphere, gamma, self.rcond) - sphere)

    def run(
        self, problem: Problem, start: torch.Tensor | None, generator: torch.Generator | None, callback: Callback
    ) -> PosteriorResult:
        misfits: list[torch.Tensor] = []

        def interact(x0: torch.Tensor, node: Node) -> torch.Tensor:
            sphere = self.pictured(x0, problem.y)
            misfits.append(problem.size_of(problem.residual(sphere)))
            if self.gamma_latent == 0:
                return x0
            informed = self.seen(self.corrected(problem, sphere, self.gamma_erp, node))
            return x0 + self.gamma_latent * (informed - x0)

        def tiled(x: torch.Tensor, timestep: float) -> torch.Tensor:
            return _in_parts(lambda part: self.denoiser(part, timestep), x, self.batch)

        with torch.no_grad():
            if start is None:
                first, node = self.seen(problem.linear.A_dagger(problem.y, self.rcond)), self.grid.nodes[0]
                start = node.alpha * first + node.sigma * Draws(generator).normal(first)
            nothing, y = Mask(torch.zeros(start.shape[-2:])), torch.zeros_like(start).to(problem.y)
            result = run_posterior(
                tiled, self.method, self.process, self.grid, nothing, y, start=start, generator=generator,
                after=interact, callback=callback,
            )  # fmt: skip
            last = [node for node in self.grid.nodes if node.sigma > 0][-1]
            sphere = self.corrected(problem, self.pictured(result.sample, problem.y), self.gamma_post, last)
            residual = problem.size_of(problem.residual(sphere))
        return PosteriorResult(sphere, residual, torch.stack(misfits), result.forward, result.backward)
