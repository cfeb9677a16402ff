"""The loop: a denoiser, a posterior method, an operator and a measurement give samples of the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.grid import Grid
from ..core.process import Process
from ..core.run import Denoiser
from .draws import Draws, Generators
from .method import Moved, PosteriorMethod
from .operators.base import Operator
from .operators.foreign import as_operator
from .prior import Hook, Prior
from .problem import Problem

#: ``callback(i, moved)`` after every move; a tensor that it returns takes the place of the sample.
Callback = Callable[[int, Moved], torch.Tensor | None]


@dataclass(frozen=True)
class PosteriorResult:
    """Samples and what they cost.

    Attributes:
        sample: (B, ...), in the sampled space (latents, if there is a decoder).
        residual: root mean square of y - A x over the measured numbers, (B,); compare it with sigma_y.
        trace: the same for the network's clean estimate at every downward move, before the data corrected it, (M, B);
            NaN where a method formed none.
        forward, backward: network calls and vector-Jacobian products.
    """

    sample: torch.Tensor
    residual: torch.Tensor
    trace: torch.Tensor
    forward: int
    backward: int


def sample_shape(problem: Problem, shape: Sequence[int] | None) -> tuple[int, ...]:
    """Shape of one sample, (C, H, W): given, or that of A^T y.

    Raises:
        ValueError: it is not given and does not follow from the operator.
    """
    if shape is not None:
        return tuple(int(n) for n in shape)
    if problem.decode is not None:
        raise ValueError("give the shape of one latent sample: it does not follow from the measurement")
    found = problem.operator.picture_shape(problem.y)
    if found is None:
        raise ValueError(f"give the shape of one picture: it does not follow from {problem.operator.name} and y")
    return found


def _count(y: torch.Tensor, start: torch.Tensor | None, generator: Generators) -> int:
    """How many samples to draw.

    Raises:
        ValueError: none, or numbers of starts and generators that differ.
    """
    given = len(generator) if isinstance(generator, Sequence) else None
    if given == 0:
        raise ValueError("a list of generators needs at least one, one a sample; it is empty")
    if start is None:
        return len(y) if given is None else given
    if not start.ndim or not len(start):
        raise ValueError(f"start is a batch of at least one sample, got the shape {tuple(start.shape)}")
    if given is not None and given != len(start):
        raise ValueError(f"start has {len(start)} samples and there are {given} generators; give one a sample")
    return len(start)


def run_posterior(
    denoiser: Denoiser,
    method: PosteriorMethod,
    process: Process,
    grid: Grid,
    operator: Operator | Any,
    y: torch.Tensor,
    *,
    sigma_y: float = 0.0,
    shape: Sequence[int] | None = None,
    start: torch.Tensor | None = None,
    generator: Generators = None,
    clip: bool = False,
    before: Hook | None = None,
    after: Hook | None = None,
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    callback: Callback | None = None,
) -> PosteriorResult:
    """Draw pictures that explain a measurement.

    Args:
        denoiser: the network; it gets ``process.input_scale(node) * x`` and the timestep.
        method: a posterior method.
        process: the forward process, which also says what the network predicts.
        grid: noise levels; a run to exact data consistency ends at clean data.
        operator: A: one of `operators`, or any object with ``A`` (and ``A_adjoint``, ...), deepinv's among them.
        y: measurement, (B, ...) or (1, ...) for several samples of one; in the scale of pictures in [-1, 1].
        sigma_y: its noise, in the scale of [-1, 1].
        shape: of one sample, where it does not follow from A^T y.
        start: sample at the first node; drawn unless given.
        generator: one a sample (a list, which also says how many samples to draw), one for all, or none.
        clip: clamp the network's x0 to [-1, 1] before the data come in; never after.
        before, after: changes of x0 before and after the data correction, ``hook(x0, node) -> x0``.
        decode, encode: between the sampled space and pictures, for latent methods and DPS.
        callback: called as ``callback(i, moved)`` after every move.

    Returns:
        The samples, final and running residuals, and the counts of network evaluations.

    Raises:
        ValueError, TypeError: an operator that lacks what the method needs, y that does not fit or has NaN or infinite
            entries, sigma_y below 0, as many starts as generators not given, a decoder for a method of pixels, a grid
            towards noise, a run that diverges.
    """
    if not y.is_floating_point() or not len(y):
        raise ValueError(
            f"a measurement is a batch of at least one, of floating-point numbers in the scale of [-1, 1]; got "
            f"{tuple(y.shape)} of {y.dtype}"
        )
    if not torch.isfinite(y).all():
        raise ValueError("the measurement has entries that are not finite numbers")
    dtype = torch.float64 if y.dtype == torch.float64 else torch.float32
    y = y.to(dtype)
    count = _count(y, start, generator)
    if len(y) not in (1, count):
        raise ValueError(f"{len(y)} measurements do not go with {count} samples; give one, or as many as samples")
    if not grid.nodes[0].ratio > grid.nodes[-1].ratio:
        raise ValueError("posterior sampling goes from noise to data; this grid goes the other way")
    if method.space == "latent" and (decode is None or encode is None):
        raise ValueError(f"{method.name} works on latents: it needs a decoder and an encoder")
    if decode is not None and method.space != "latent" and not method.decodes:
        raise ValueError(
            f"{method.name} works on pictures and takes no decoder; use dps or a method of latents, such as latent-dps"
        )
    y = y.expand(count, *y.shape[1:])
    problem = Problem(as_operator(operator, y, shape), y, sigma_y, decode, encode, after)
    prior, draws = Prior(denoiser, process, clip, before), Draws(generator)
    with torch.no_grad():
        method.check(problem)
        plan = method.plan(process, grid)
        if start is None:
            like = y.new_empty((count, *sample_shape(problem, shape)))
            start = method.start(plan, problem, draws.normal(like))
        x, state, trace = start.to(dtype), (), []
        if decode is None:
            made = problem.operator.A(x[:1]).shape[1:]
            if made != y.shape[1:]:
                raise ValueError(
                    f"{problem.operator.name} makes measurements of {tuple(made)} from samples of "
                    f"{tuple(x.shape[1:])}, and y has {tuple(y.shape[1:])}"
                )
        for i, move in enumerate(plan.moves):
            moved = method.step(plan, i, x, prior, problem, draws, state)
            x, state = moved.x, moved.state
            if not move.up:
                nothing = x.new_full((count,), float("nan"), dtype=torch.float32)
                trace.append(nothing if moved.residual is None else moved.residual)
            if callback is not None:
                changed = callback(i, moved)
                x = x if changed is None else changed
        x = method.finish(plan, x, problem)
        if not torch.isfinite(x).all():
            raise ValueError(
                f"the run diverged: {method.name} ended at entries that are not finite numbers; take more noise "
                "levels, or smaller steps on the data"
            )
        return PosteriorResult(
            x, problem.size_of(problem.residual(x)), torch.stack(trace), prior.forward, prior.backward
        )
