"""Mask-shift restoration: a picture of any size window by window, each one held to what is finished.

The first window is restored as a picture of its own. Every other one is restored with the part that finished windows
cover pasted over its clean estimate at every noise level, after the data: x0 <- M done + (1 - M) x0. This package's own
is the margin: windows finish less than they cover, and what they leave fades into those that follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import max_pool2d

from ..core.grid import Grid
from ..core.process import Process
from ..core.run import Denoiser
from .canvas import Laid, lay_out
from .draws import Generators
from .local import restriction
from .method import Moved, PosteriorMethod
from .operators.base import Operator
from .prior import Hook
from .problem import Problem
from .run import Callback, PosteriorResult, run_posterior
from .windows import Box, Windows

#: ``on_window(k, canvas, finished)`` after window k: the canvas (B, C, H', W') and where it is finished, (H', W').
OnWindow = Callable[[int, torch.Tensor, torch.Tensor], None]


#: Noise levels whose pulls together make the profile of `fading`.
_PULLS = 4


@dataclass(frozen=True)
class Piece:
    """One window of the sequence.

    Attributes:
        box: the window.
        operator: from the window to its part of y.
        seen: that part.
        settled: pixels of the window whose every measurement it has seen: those that it finishes.
    """

    box: Box
    operator: Operator
    seen: Box
    settled: Box


def usual_margin(windows: Windows, block: int) -> int:
    """Half of the overlap in whole blocks of the operator: the most that lets windows finish every pixel."""
    room = min(window - stride for window, stride in zip(windows.window, windows.stride, strict=True)) // 2
    return room // block * block


def pieces(laid: Laid, y: torch.Tensor, margin: int | None = None) -> list[Piece]:
    """What every window measures and finishes, in order.

    Args:
        laid: the canvas.
        y: measurement of the whole picture.
        margin: pixels along the borders of windows that are left to the next, but for borders of the canvas; made whole
            blocks of the operator. None is `usual_margin`.

    Raises:
        ValueError: an operator that is not local, windows that cut what it measures, and windows that overlap by less
            than what it measures reaches over, so that some pixels would never be finished.
    """
    windows = laid.windows
    if len(windows) == 1:
        whole = Box(0, 0, *windows.size)
        return [Piece(whole, laid.operator, Box(0, 0, *y.shape[-2:]), whole)]
    local, found = restriction(laid.operator), []
    margin = usual_margin(windows, local.block) if margin is None else -(-margin // local.block) * local.block
    covered = torch.zeros(windows.size, dtype=torch.bool)
    for box in windows:
        operator, seen = local.at(box)
        settled = box.common(local.settled(seen)).common(box.shrunk(margin, windows.size))
        settled.of(covered).fill_(True)
        found.append(Piece(box, operator, seen, settled))
    if not covered.all():
        raise ValueError(
            f"windows of {windows.window[0]} x {windows.window[1]} at strides of {windows.stride[0]} and "
            f"{windows.stride[1]} overlap by less than twice the margin of {margin} and what {laid.operator.name} "
            "reaches over; take larger windows, smaller strides, or the canvas mode"
        )
    return found


def pasting(canvas: torch.Tensor, finished: torch.Tensor, box: Box) -> Hook | None:
    """The hook that holds a window to what is finished of it; None for nothing."""
    held, done = box.of(finished), box.of(canvas)
    return (lambda x0, node: torch.where(held, done, x0)) if held.any() else None


def _both(first: Hook | None, second: Hook | None) -> Hook | None:
    """One hook after the other."""
    if first is None or second is None:
        return second if first is None else first
    return lambda x0, node: second(first(x0, node), node)


def fading(canvas: torch.Tensor, covered: torch.Tensor, finished: torch.Tensor, box: Box, margin: int) -> Hook | None:
    """The hook that lets a window go on as the windows before it did; None where there is no margin.

    Beyond what they have finished lie the margins that they left: values that go with the finished ones. The estimate
    is drawn to them, x0 <- x0 + w (canvas - x0), before the data come in, with w falling from 1 at the edge of what is
    finished to 0 over `margin` pixels. Else the estimate has to meet the finished part within one pixel. The pulls of
    all levels add up, those of the last few most: 1 - (1 - w)^4, what four of them come to, is the one that falls as
    cos^2.

    Args:
        canvas: (B, C, H, W).
        covered: (H, W), where windows have been.
        finished: (H, W).
        box: the window.
        margin: pixels.
    """
    held, grown = box.of(finished), box.of(finished)[None].float()
    if margin < 1 or not held.any():
        return None
    weight = torch.zeros_like(grown)
    for distance in range(1, margin + 1):
        reached = max_pool2d(grown, 3, 1, 1)
        left = math.sin(math.pi / 2 * distance / (margin + 1)) ** 2
        weight += (reached - grown) * (1 - left ** (1 / _PULLS))
        grown = reached
    weight = weight * box.of(covered)
    values = box.of(canvas)
    return lambda x0, node: x0 + weight.to(x0) * (values.to(x0) - x0)


def run_msr(
    denoiser: Denoiser,
    method: PosteriorMethod,
    process: Process,
    grid: Grid,
    operator: Operator | Any,
    y: torch.Tensor,
    *,
    window: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    shape: Sequence[int] | None = None,
    start: torch.Tensor | None = None,
    generator: Generators = None,
    margin: int | None = None,
    multiple: int = 1,
    before_window: Callable[[Box], Hook] | None = None,
    on_window: OnWindow | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> PosteriorResult:
    """Restore a picture of any size by mask-shift restoration.

    Each window is a run of its own, so the memory is that of one window whatever the size. A picture of exactly one
    window gives the result of `run_posterior` bit for bit, and pixels never change once they are finished.

    Where numbers of y depend on pixels on both sides of a window's border (bicubic resizing, blurs) a window takes
    those that lie within it, and finishes those of its pixels on which no others depend; the rest is left to the next.
    Pasting comes after the data, so numbers that look over the border of what is finished are met approximately;
    average pooling, masks, grey and the identity are met exactly, and the canvas mode meets all.

    Args:
        denoiser, method, process, grid, operator, y, shape: as for `run_posterior`; those of the whole picture.
        window: side of the windows that the network sees, or (h, w).
        stride: from one window to the next; half a window by default.
        start: sample at the first node, on the canvas.
        generator: one a sample, one for all, or none; windows draw from it one after the other.
        margin: pixels along the borders of a window, but for those of the canvas, that it does not finish, in whole
            blocks of the operator, and over which it fades into the next. None is half of the overlap, which hides the
            borders; 0 is as published, and shows them.
        multiple: what the sides of the canvas must be divisible by.
        before_window: the hook on the clean estimate of a window, before the data.
        on_window: told after every window.
        callback: as for `run_posterior`, counted through all windows; it sees the sample of a window.
        options: `sigma_y` and `clip`, as for `run_posterior`.

    Returns:
        The pictures, the residual of the whole, running residuals of all windows one after the other, and counts of
        evaluations of one window.

    Raises:
        ValueError, TypeError: what `run_posterior` raises, a latent method, an operator that is not local.

    Reference: Wang, Yu, Yu, Zhang 2023 (arXiv 2303.00354).
    """
    if method.space == "latent":
        raise ValueError(f"mask-shift restoration works on pixels, and {method.name} on latents; take the canvas mode")
    laid = lay_out(operator, y, shape, window, stride, multiple)
    start = laid.fits(start)
    sequence, moves = pieces(laid, y, margin), len(method.moves(grid))
    strip = usual_margin(laid.windows, 1) if margin is None else margin
    canvas: torch.Tensor | None = None
    finished = torch.zeros(laid.windows.size, dtype=torch.bool, device=y.device)
    covered = finished.clone()
    traces, forward, backward = [], 0, 0
    for k, piece in enumerate(sequence):
        box = piece.box

        def told(i: int, moved: Moved, k: int = k) -> torch.Tensor | None:
            return None if callback is None else callback(k * moves + i, moved)

        result = run_posterior(
            denoiser, method, process, grid, piece.operator, piece.seen.of(y),
            shape=(laid.shape[0], *box.size), start=None if start is None else box.of(start), generator=generator,
            before=_both(
                None if canvas is None else fading(canvas, covered, finished, box, strip),
                None if before_window is None else before_window(box),
            ),
            after=None if canvas is None else pasting(canvas, finished, box), callback=told, **options,
        )  # fmt: skip
        if canvas is None:
            canvas = result.sample.new_zeros((len(result.sample), *laid.shape))
        box.of(canvas).copy_(torch.where(box.of(finished), box.of(canvas), result.sample))
        piece.settled.of(finished).fill_(True)
        box.of(covered).fill_(True)
        traces.append(result.trace)
        forward, backward = forward + result.forward, backward + result.backward
        if on_window is not None:
            on_window(k, canvas, finished)
    assert canvas is not None
    whole = Problem(laid.operator, y.to(canvas.dtype).expand(len(canvas), *y.shape[1:]), options.get("sigma_y", 0.0))
    residual = whole.size_of(whole.residual(canvas))
    return PosteriorResult(laid.cropped(canvas), residual, torch.cat(traces), forward, backward)
