"""Panoramas of the whole sphere with a network that knows flat pictures: 18 tangent planes that inform one another.

At every noise level the clean estimates of all planes are blended to one panorama, that panorama is corrected with the
measurement, and its planes pull the estimates towards themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..core.grid import Grid
from ..core.process import Node, Process
from ..core.run import Denoiser
from .ddnm import DDNM
from .draws import Draws, Generators
from .method import PosteriorMethod
from .operators.base import Operator
from .operators.foreign import as_operator
from .operators.pointwise import Mask
from .problem import Problem
from .run import PosteriorResult, run_posterior
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
    method: PosteriorMethod | None = None,
    fov: float = 75.0,
    gamma_latent: float = 0.5,
    gamma_erp: float = 1.0,
    gamma_post: float = 1.0,
    batch: int = 6,
    decode: Map | None = None,
    encode: Map | None = None,
    generator: Generators = None,
) -> PosteriorResult:
    """OmniSSR: restore panoramas (equirectangular, the left edge meets the right) by their tangent planes.

    With the clean estimates z_i of the planes, P_i the projection to plane i, D and E decoder and encoder:

        S = blend(clip(D(z_i))),    S <- S + gamma_erp A^+(y - A S),    z_i <- (1 - gamma_latent) z_i + gamma_latent
        E(clip(P_i S)).

    The start is the forward-noised E(P_i A^+ y); the result blend(D(z_i)), corrected once more with `gamma_post`.

    Args:
        denoiser, process, grid: the prior of flat pictures (or latents) and the noise levels.
        operator, y: linear, of the whole panorama, (B, ...).
        size: (H, W) of the panorama.
        side: of a plane in pixels, what the network (or the decoder) makes.
        method: how the planes walk down the noise levels; DDPM's ancestral steps by default. It sees no data itself.
        fov: field of view of a plane in degrees.
        gamma_latent: how much the planes take from one another, 0 to 1; 0 leaves them independent.
        gamma_erp: weight of the data at every noise level, 0 to 1; 0 is blending alone.
        gamma_post: the same at the end.
        batch: most planes in the network, the decoder and the encoder at a time.
        decode, encode: between latents and pictures, for a latent prior.
        generator: one a panorama, one for all, or none.

    Returns:
        Panoramas (B, C, H, W); the trace is the misfit of the blended estimates before the data; `forward` counts calls
        on all 18 planes.

    Raises:
        ValueError: a weight out of range, a decoder without an encoder, y that does not fit; a latent method.
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
    if walks.space == "latent":
        raise ValueError(f"planes are steered by the panorama, and {walks.name} wants data of its own; take ddnm")
    y = y if y.dtype == torch.float64 else y.float()
    if isinstance(generator, Sequence) and len(generator) != len(y):
        raise ValueError(f"{len(generator)} generators were given for {len(y)} panoramas")
    planes = TangentPlanes(size, side, fov)
    linear = Problem(as_operator(operator, y), y).linear
    to_pictures, to_samples = decode or _same, encode or _same
    found = []
    for b in range(len(y)):
        problem = Problem(linear, y[b : b + 1])
        source = generator[b] if isinstance(generator, Sequence) else generator
        found.append(
            _one(denoiser, walks, process, grid, problem, planes, to_pictures, to_samples, source, batch,
                 gamma_latent, gamma_erp, gamma_post)
        )  # fmt: skip
    return PosteriorResult(
        torch.cat([one.sample for one in found]),
        torch.cat([one.residual for one in found]),
        torch.cat([one.trace for one in found], 1),
        sum(one.forward for one in found),
        sum(one.backward for one in found),
    )


def _one(
    denoiser: Denoiser,
    method: PosteriorMethod,
    process: Process,
    grid: Grid,
    problem: Problem,
    planes: TangentPlanes,
    decode: Map,
    encode: Map,
    generator: torch.Generator | None,
    batch: int,
    gamma_latent: float,
    gamma_erp: float,
    gamma_post: float,
) -> PosteriorResult:
    misfits: list[torch.Tensor] = []

    def pictured(x0: torch.Tensor) -> torch.Tensor:
        return planes.panorama(_in_parts(decode, x0, batch).to(problem.y).clamp(-1, 1))

    def corrected(sphere: torch.Tensor, weight: float) -> torch.Tensor:
        return sphere + weight * problem.linear.A_dagger(problem.residual(sphere)) if weight else sphere

    def seen(sphere: torch.Tensor) -> torch.Tensor:
        return _in_parts(encode, planes.planes(sphere).clamp(-1, 1), batch).to(problem.y)

    def interact(x0: torch.Tensor, node: Node) -> torch.Tensor:
        sphere = pictured(x0)
        misfits.append(problem.size_of(problem.residual(sphere)))
        if gamma_latent == 0:
            return x0
        return x0 + gamma_latent * (seen(corrected(sphere, gamma_erp)) - x0)

    def tiled(x: torch.Tensor, timestep: float) -> torch.Tensor:
        return _in_parts(lambda part: denoiser(part, timestep), x, batch)

    first = seen(problem.linear.A_dagger(problem.y))
    node = grid.nodes[0]
    start = node.alpha * first + node.sigma * Draws(generator).normal(first)
    nothing = Mask(torch.zeros(first.shape[-2:]))
    result = run_posterior(
        tiled, method, process, grid, nothing, torch.zeros_like(first), start=start, generator=generator, after=interact
    )
    sphere = corrected(pictured(result.sample), gamma_post)
    residual = problem.size_of(problem.residual(sphere))
    return PosteriorResult(sphere, residual, torch.stack(misfits), result.forward, result.backward)
