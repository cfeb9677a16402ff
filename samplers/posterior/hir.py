"""Hierarchical restoration: a small version of a large picture first, which then holds the windows together.

Windows of a large hole or of a grey picture do not know of one another. At 1 / f of the size a window sees f times as
far: restore that, and keep its pixels as the means of f x f blocks of the large picture.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.grid import Grid
from ..core.process import Node, Process
from ..core.registry import nearest
from ..core.run import Denoiser
from .canvas import lay_out, run_canvas
from .inset import Replicate, blockmeans, cropping, replicated
from .local import restriction
from .method import PosteriorMethod
from .msr import run_msr, usual_margin
from .operators.base import Operator
from .operators.compose import compose
from .operators.foreign import as_operator
from .operators.pointwise import Grey, Identity, Mask
from .operators.pooling import AveragePool
from .operators.separable import Separable
from .prior import Hook
from .problem import Problem
from .run import PosteriorResult, sample_shape
from .windows import Box

#: What restores the windows of both stages.
STAGES = {"canvas": run_canvas, "msr": run_msr}


@dataclass(frozen=True)
class Reduced:
    """The same problem for the picture of block means: y = A x + sigma_y n."""

    operator: Operator
    y: torch.Tensor
    sigma_y: float


def reduced_problem(
    operator: Operator | Any, y: torch.Tensor, sigma_y: float, size: tuple[int, int], factor: int
) -> Reduced:
    """What y says about P x, the means of blocks of `factor` x `factor` pixels.

    Measurements of single pixels are averaged over blocks (for a mask: over the known pixels of a block). For others
    the operator is A P^+, the measurement of the picture with its pixels made blocks; it is exact for average pools by
    a multiple of `factor`, and else leaves out what the detail within blocks adds to y.

    Args:
        operator, y, sigma_y: the problem.
        size: (H, W) of the picture. Where the factor does not divide it the last blocks reach over the border.
        factor: side of a block.

    Raises:
        ValueError: a measurement of whole numbers.
    """
    if not y.is_floating_point():
        raise ValueError(f"a measurement is made of floating-point numbers in the scale of [-1, 1], got {y.dtype}")
    operator = as_operator(operator, y)
    small = (-(-size[0] // factor), -(-size[1] // factor))
    even = (small[0] * factor, small[1] * factor) == tuple(size)
    if even and isinstance(operator, (Identity, Grey)):
        return Reduced(operator, blockmeans(y, factor), sigma_y / factor)
    if even and isinstance(operator, Mask):
        known = blockmeans(operator.mask.like(y), factor)
        means = blockmeans(operator.A(y), factor) / known.clamp_min(1 / (2 * factor**2))
        return Reduced(Mask(known > 0), means, sigma_y)
    if even and isinstance(operator, AveragePool) and operator.factor % factor == 0:
        left = operator.factor // factor
        return Reduced(Identity() if left == 1 else AveragePool(left, small), y, sigma_y)
    if even and isinstance(operator, Separable):
        vertical, horizontal = (
            line.matrix.value.reshape(line.rows, -1, factor).sum(-1)
            for line in (operator.vertical, operator.horizontal)
        )
        return Reduced(Separable(vertical, horizontal, operator.name), y, sigma_y)
    parts: list[Operator] = [Replicate(factor, small)]
    if not even:
        parts.append(cropping((small[0] * factor, small[1] * factor), Box(0, 0, *size)))
    return Reduced(compose(*parts, operator), y, sigma_y)


def kept_means(semantic: torch.Tensor, factor: int, grid: Grid, fade: float) -> Hook:
    """The low-frequency constraint x0 <- x0 + w P^+(semantic - P x0); w falls from 1 to 0 over the last steps.

    Args:
        semantic: (B, C, h, w), the means to keep.
        factor: side of their blocks.
        grid: noise levels of the run.
        fade: share of the steps over which it fades out, 0 to 1; 0 for never.
    """
    ratios = [node.ratio for node in grid.nodes[:-1]]

    def hook(x0: torch.Tensor, node: Node) -> torch.Tensor:
        left = sum(ratio < node.ratio for ratio in ratios)
        weight = min(left / (fade * len(ratios)), 1.0) if fade > 0 else 1.0
        off = semantic.to(x0) - blockmeans(x0, factor)
        return x0 + weight * replicated(off, factor) if weight > 0 else x0

    return hook


def run_hir(
    denoiser: Denoiser,
    method: PosteriorMethod,
    process: Process,
    grid: Grid,
    operator: Operator | Any,
    y: torch.Tensor,
    *,
    window: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    factor: int = 2,
    fade: float = 0.2,
    mode: str = "canvas",
    sigma_y: float = 0.0,
    semantic: torch.Tensor | None = None,
    shape: Sequence[int] | None = None,
    **options: Any,
) -> PosteriorResult:
    """Restore a picture of any size in two stages: the means of blocks first, then all of it around them.

    At every noise level of the second stage come, in this order, the low-frequency constraint
    x0 <- x0 + P^+(semantic - P x0), the data, and (mode ``msr``) the finished windows; later ones win.

    Args:
        denoiser, method, process, grid, operator, y, sigma_y, shape: as for `run_posterior`; the whole picture.
        window, stride: the side of the windows that the network sees in both stages, and from one to the next. A stage
            that is smaller than a window is restored on a canvas of one.
        factor: of the reduction, 1 or above; the strides and windows of mode ``msr`` must be divisible by it.
        fade: share of the last noise levels over which the constraint fades out; 0 keeps it to the end.
        mode: how both stages go over windows, ``canvas`` or ``msr``.
        semantic: the first stage's picture, (B, C, ceil(H / factor), ceil(W / factor)); made unless given.
        options: as for `run_canvas` or `run_msr`; a callback sees both stages one after the other, each counted from 0.

    Returns:
        The pictures; `forward` and `backward` count windows of both stages, `trace` is that of the second.

    Raises:
        ValueError, TypeError: what the stages raise; a latent method, an unknown mode, a factor below 1, a share out of
            range, a semantic picture of another size.

    Reference: Wang, Yu, Yu, Zhang 2023 (arXiv 2303.00354).
    """
    if mode not in STAGES:
        raise ValueError(f"unknown mode {mode!r}{nearest(mode, list(STAGES))} Known are {', '.join(STAGES)}")
    if method.space == "latent":
        raise ValueError(
            f"hierarchical restoration works on pixels, and {method.name} on latents; take the canvas mode"
        )
    if factor < 1 or int(factor) != factor:
        raise ValueError(f"the factor of reduction is a whole number of at least 1, got {factor!r}")
    if not 0 <= fade <= 1:
        raise ValueError(f"fade is a share of the steps, 0 to 1, got {fade!r}")
    for name in ("start", "before", "before_window"):
        if options.get(name) is not None:
            raise ValueError(f"hierarchical restoration sets {name!r} itself")
    operator = as_operator(operator, y, shape)
    if shape is None:
        shape = sample_shape(Problem(operator, y), None)
    laid = lay_out(operator, y, shape, window, stride, multiple=factor)
    size, stage = laid.size, STAGES[mode]
    small = (laid.shape[0], -(-size[0] // factor), -(-size[1] // factor))
    forward = backward = 0
    if semantic is None:
        less = reduced_problem(operator, y, sigma_y, size, factor)
        first = stage(
            denoiser, method, process, grid, less.operator, less.y, window=window, stride=stride,
            sigma_y=less.sigma_y, shape=small, **options,
        )  # fmt: skip
        semantic, forward, backward = first.sample, first.forward, first.backward
    if tuple(semantic.shape[1:]) != small:
        raise ValueError(f"the semantic picture must have the shape {small}, got {tuple(semantic.shape[1:])}")
    # the part of the canvas that is no picture repeats the border, so that it asks for nothing new
    missing = (laid.windows.size[0] // factor - small[1], laid.windows.size[1] // factor - small[2])
    held = torch.nn.functional.pad(semantic, (0, missing[1], 0, missing[0]), mode="replicate")
    if mode == "canvas":
        options["before"] = kept_means(held, factor, grid, fade)
    else:
        if any(n % factor for n in (*laid.windows.window, *laid.windows.stride)):
            raise ValueError(f"windows and strides must be divisible by the factor of reduction, {factor}")
        if options.get("margin") is None and len(laid.windows) > 1:  # finished parts cut no block of either kind
            block = math.lcm(restriction(laid.operator).block, factor)
            options["margin"] = usual_margin(laid.windows, block)
        options["before_window"] = lambda box: kept_means(box.over(factor).of(held), factor, grid, fade)
    second = stage(
        denoiser, method, process, grid, operator, y, window=window, stride=stride, sigma_y=sigma_y, shape=shape,
        multiple=factor, **options,
    )  # fmt: skip
    return dataclasses.replace(second, forward=second.forward + forward, backward=second.backward + backward)
