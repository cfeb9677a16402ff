"""How a picture of any size goes through a network of one size: whole, as a canvas of windows, or window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fewstep.samplers import Grid, VPDiscrete
from fewstep.samplers.core.registry import nearest
from fewstep.samplers.posterior import (
    Operator,
    PosteriorMethod,
    PosteriorResult,
    Windows,
    canvas,
    msr,
    run_canvas,
    run_hir,
    run_msr,
)
from fewstep.samplers.posterior.operators import Separable

#: ``whole`` is one call for the whole picture.
TILES = ("whole", "canvas", "msr", "hir")

#: Side of a window of a network that does not say what it was trained at.
USUAL_WINDOW = 64

#: Most pixels of all samples together that go through a fully convolutional network at once, and with gradients.
MOST_WHOLE, MOST_WHOLE_GRADIENT = 2**20, 2**18

#: Pixels of all windows that go through the network at once, on a processor and on an accelerator.
PIXELS_AT_ONCE, PIXELS_AT_ONCE_ACCELERATOR = 2**16, 2**20

#: Reduction of the first stage of ``hir``.
REDUCTION = 2


@dataclass(frozen=True)
class Frame:
    """What a network says about sizes, in its own units (pixels or latents).

    Attributes:
        window: (h, w) that it was trained at.
        divisor: what the sides of its input must be divisible by.
        convolutional: whether it is made for other sizes too: convolutions alone.
        pads: whether a picture smaller than a window is put on a canvas of one.
        unit: pixels a unit: 1, or those of a latent.
    """

    window: tuple[int, int]
    divisor: int
    convolutional: bool
    pads: bool
    unit: int = 1


@dataclass(frozen=True)
class Layout:
    """Windows of a run, in units of the network.

    Attributes:
        mode: one of `TILES`.
        windows: on the canvas.
        small: those of the first stage of ``hir``; None for others.
        batch: most windows in the network at a time.
    """

    mode: str
    windows: Windows
    small: Windows | None = None
    batch: int = 8

    @property
    def count(self) -> int:
        """Windows that every move of the method visits, of both stages."""
        return len(self.windows) + (0 if self.small is None else len(self.small))

    @property
    def passes(self) -> int:
        """How many times the moves of the method are gone through: what a progress bar counts."""
        return len(self.windows) if self.mode == "msr" else 1 if self.small is None else 2


def _pair(name: str, value: int | Sequence[int], unit: int, least: int) -> tuple[int, int]:
    try:
        pair = (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
    except (TypeError, ValueError, IndexError):
        raise ValueError(f"the {name} is a number of pixels or a pair of them, got {value!r}") from None
    if min(pair) < least:
        raise ValueError(f"the {name} must be at least {least} pixels, got {pair[0]} x {pair[1]}")
    if any(n % unit for n in pair):
        raise ValueError(f"the {name} must be divisible by {unit} pixels, the side of a latent, got {value!r}")
    return pair[0] // unit, pair[1] // unit


def lay_out(
    frame: Frame,
    size: tuple[int, int],
    *,
    tile: str | None,
    window: int | Sequence[int] | None,
    overlap: int | Sequence[int] | None,
    samples: int,
    gradient: bool,
    accelerated: bool,
    operator: Operator,
) -> Layout:
    """The windows of a run.

    Args:
        frame: of the network.
        size: (H, W) of a sample, in units of the network.
        tile: one of `TILES`; None is ``whole`` where the picture fits a window, or the network is fully convolutional
            and the picture not too large for the memory, else ``canvas``.
        window, overlap: in pixels; by default those that the network was trained at, and half of them.
        samples: pictures that are drawn together.
        gradient: whether the method differentiates through the network.
        accelerated: whether it runs on an accelerator.
        operator: A; for ``msr`` windows overlap by what its measurements reach over.

    Raises:
        ValueError: an unknown mode, windows that the network cannot take.
    """
    if tile is not None and tile not in TILES:
        raise ValueError(f"unknown tile {tile!r}{nearest(str(tile), TILES)} Known are {', '.join(TILES)}")
    given = window is not None
    sides = frame.window if window is None else _pair("window", window, frame.unit, 1)
    if any(n % frame.divisor for n in sides):
        raise ValueError(
            f"the sides of a window must be divisible by {frame.divisor * frame.unit} pixels for this network, got "
            f"{sides[0] * frame.unit} x {sides[1] * frame.unit}"
        )
    fits = size[0] <= sides[0] and size[1] <= sides[1]
    if tile is None and not given:
        pixels = samples * size[0] * size[1]
        small = pixels <= (MOST_WHOLE_GRADIENT if gradient else MOST_WHOLE)
        tile = "whole" if fits or (frame.convolutional and small) else "canvas"
    elif tile is None:
        tile = "whole" if fits else "canvas"
    if tile == "whole" or (fits and not frame.pads and not given):
        smallest = sides if fits and (frame.pads or given) else size
        whole = tuple(-(-n // frame.divisor) * frame.divisor for n in smallest)
        one = Windows.covering(size, (whole[0], whole[1]))
        return Layout(tile if tile != "hir" else "whole", one, batch=samples)
    half = (sides[0] // 2, sides[1] // 2)
    shared = half if overlap is None else _pair("overlap", overlap, frame.unit, 0)
    if shared[0] >= sides[0] or shared[1] >= sides[1]:
        raise ValueError(
            f"windows of {sides[0] * frame.unit} x {sides[1] * frame.unit} cannot overlap by "
            f"{shared[0] * frame.unit} x {shared[1] * frame.unit}; the overlap is smaller than the window"
        )
    if overlap is None and tile == "msr":
        shared = _reaching(operator, size, sides, shared)
    stride = (sides[0] - shared[0], sides[1] - shared[1])
    hierarchical = tile == "hir"
    windows = Windows.covering(size, sides, stride, REDUCTION if hierarchical else 1)
    reduced = None
    if hierarchical:
        reduced = Windows.covering((-(-size[0] // REDUCTION), -(-size[1] // REDUCTION)), sides, stride)
    budget = PIXELS_AT_ONCE_ACCELERATOR if accelerated else PIXELS_AT_ONCE
    batch = max(budget // (sides[0] * sides[1]), 1)
    return Layout(tile, windows, reduced, batch)


def _reaching(
    operator: Operator, size: tuple[int, int], sides: tuple[int, int], half: tuple[int, int]
) -> tuple[int, int]:
    """The least overlap from half a window on with which ``msr`` finishes every pixel; half where none does.

    A resampler's measurements reach over several pixels, and a window settles those alone that no other window's
    measurements depend on.
    """
    if not isinstance(operator, Separable) or (size[0] <= sides[0] and size[1] <= sides[1]):
        return half
    for eighths in (4, 5, 6):
        shared = (sides[0] * eighths // 8, sides[1] * eighths // 8)
        stride = (sides[0] - shared[0], sides[1] - shared[1])
        try:
            laid = canvas.lay_out(operator, torch.empty(0), (1, *size), sides, stride)
            msr.pieces(laid, torch.empty(0))
        except ValueError:
            continue
        return shared
    return half


def run_tiled(
    layout: Layout,
    denoiser: Any,
    method: PosteriorMethod,
    process: VPDiscrete,
    grid: Grid,
    operator: Operator,
    y: torch.Tensor,
    *,
    shape: tuple[int, int, int],
    on_window: Any = None,
    **options: Any,
) -> PosteriorResult:
    """A run in the layout's mode; options as for `run_posterior`."""
    windows = layout.windows
    common: dict[str, Any] = {"window": windows.window, "stride": windows.stride, "shape": shape}
    if layout.mode == "msr":
        for name in ("decode", "encode"):
            options.pop(name, None)
        return run_msr(denoiser, method, process, grid, operator, y, on_window=on_window, **common, **options)
    if layout.mode == "hir":
        for name in ("decode", "encode"):
            options.pop(name, None)
        return run_hir(
            denoiser, method, process, grid, operator, y, factor=REDUCTION, batch=layout.batch, **common, **options
        )
    return run_canvas(denoiser, method, process, grid, operator, y, batch=layout.batch, **common, **options)
