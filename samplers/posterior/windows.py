"""Windows over a picture of any size: where they lie, how many, and how much each says where they overlap.

A network is trained at one size P. A larger picture is covered by windows P x P at a stride of P / 2, the last of every
row and column moved back so that it ends at the border; ceil(H / stride) - 1 rows of them for H >= P.

Layout: Wang, Yu, Yu, Zhang 2023, Unlimited-Size Diffusion Restoration (arXiv 2303.00354). Overlaps averaged: Bar-Tal,
Yariv, Lipman, Dekel 2023, MultiDiffusion (arXiv 2302.08113).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from ..core.registry import nearest

#: How windows are weighted where they overlap: all pixels alike, or falling towards the border of the window.
WEIGHTS = ("tapered", "uniform")


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """This part of (..., H, W), a view."""
        return x[..., self.top : self.bottom, self.left : self.right]

    def times(self, factor: int) -> Box:
        """The same rectangle on a picture that is `factor` times as large."""
        return Box(self.top * factor, self.left * factor, self.height * factor, self.width * factor)

    def over(self, factor: int, name: str = "this operator") -> Box:
        """The same rectangle counted in blocks of `factor` x `factor` pixels.

        Raises:
            ValueError: its borders cut blocks.
        """
        if self.top % factor or self.left % factor or self.height % factor or self.width % factor:
            raise ValueError(
                f"a window of {self.height} x {self.width} at row {self.top}, column {self.left} cuts the blocks of "
                f"{factor} x {factor} pixels that {name} measures; take windows and strides divisible by {factor}, or "
                "the canvas mode"
            )
        return Box(self.top // factor, self.left // factor, self.height // factor, self.width // factor)

    def common(self, other: Box) -> Box:
        """What two rectangles share; of size 0 if nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        height, width = min(self.bottom, other.bottom) - top, min(self.right, other.right) - left
        return Box(top, left, max(height, 0), max(width, 0))

    def shrunk(self, margin: int, size: tuple[int, int]) -> Box:
        """Without so many pixels along its borders, but for those that are borders of a canvas (H, W)."""
        top, left = (margin if self.top else 0), (margin if self.left else 0)
        bottom, right = (margin if self.bottom < size[0] else 0), (margin if self.right < size[1] else 0)
        inner = Box(self.top + top, self.left + left, self.height - top - bottom, self.width - left - right)
        return inner if min(inner.size) > 0 else Box(self.top, self.left, 0, 0)

    def within(self, size: tuple[int, int]) -> Box:
        """The part of it that lies on a picture (H, W)."""
        return self.common(Box(0, 0, *size))


def starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """Where windows begin on a line: every `stride` pixels, the last one moved back to end at the border.

    ceil((length - window) / stride) + 1 of them; ceil(length / stride) - 1 for a window of two strides.
    """
    count = math.ceil((length - window) / stride) + 1
    return tuple(min(i * stride, length - window) for i in range(count))


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
    if height < 1 or width < 1:
        raise ValueError(f"the {name} must be at least 1 pixel, got {height} x {width}")
    return height, width


@dataclass(frozen=True)
class Windows:
    """A layout of windows.

    Attributes:
        size: (H, W) of the canvas, at least one window.
        window: (h, w) of a window.
        stride: (rows, columns) from one window to the next, at most a window.
    """

    size: tuple[int, int]
    window: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self) -> None:
        for side, window, stride in zip(self.size, self.window, self.stride, strict=True):
            if not 1 <= stride <= window:
                raise ValueError(f"the stride must be 1 to {window} pixels, the size of a window, got {stride}")
            if side < window:
                raise ValueError(
                    f"a canvas of {self.size[0]} x {self.size[1]} is smaller than a window of {self.window[0]} x "
                    f"{self.window[1]}"
                )

    @classmethod
    def covering(
        cls,
        size: tuple[int, int],
        window: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        multiple: int = 1,
    ) -> Windows:
        """Windows on the smallest canvas that holds a picture of this size.

        Args:
            size: (H, W) of the picture.
            window: side of a window, or (h, w).
            stride: from one window to the next; half a window by default.
            multiple: what the sides of the canvas must be divisible by.

        Raises:
            ValueError: a stride above the window, or sides below 1.
        """
        window = _pair("window", window)
        stride = (max(window[0] // 2, 1), max(window[1] // 2, 1)) if stride is None else _pair("stride", stride)
        sides = [
            math.ceil(max(s, w) / multiple) * multiple for s, w in zip(_pair("picture", size), window, strict=True)
        ]
        return cls((sides[0], sides[1]), window, stride)

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """First rows of the windows."""
        return starts(self.size[0], self.window[0], self.stride[0])

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """First columns of the windows."""
        return starts(self.size[1], self.window[1], self.stride[1])

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Box]:
        """Row by row, left to right."""
        return (Box(top, left, *self.window) for top in self.rows for left in self.columns)

    def weights(self, kind: str = "tapered") -> tuple[torch.Tensor, torch.Tensor]:
        """How much every window says at its pixels, (rows, h) and (columns, w), float64; weights are their products.

        They sum to 1 at every pixel of the canvas, and are exactly 1 where there is one window alone. ``uniform`` is
        MultiDiffusion's plain mean. ``tapered`` is sin^2, which falls to almost 0 at the border of a window, where the
        network sees the least: averages then have no step at the borders of windows.

        Raises:
            ValueError: another name.
        """
        if kind not in WEIGHTS:
            raise ValueError(f"unknown weights {kind!r}{nearest(kind, WEIGHTS)} Known are {', '.join(WEIGHTS)}")
        parts = zip(self.size, self.window, (self.rows, self.columns), strict=True)
        vertical, horizontal = (_weights(side, window, begins, kind) for side, window, begins in parts)
        return vertical, horizontal


def _weights(side: int, window: int, begins: tuple[int, ...], kind: str) -> torch.Tensor:
    shape = torch.ones(window, dtype=torch.float64)
    if kind == "tapered":
        shape = torch.sin(math.pi * (torch.arange(window, dtype=torch.float64) + 0.5) / window).square()
    total = torch.zeros(side, dtype=torch.float64)
    for begin in begins:
        total[begin : begin + window] += shape
    return torch.stack([shape / total[begin : begin + window] for begin in begins])


def seam_ratio(
    picture: torch.Tensor, windows: Windows, period: int = 1, margin: int = 0, sequence: bool = False
) -> float:
    """Mean |gradient| across the borders of windows over that elsewhere; 1 if nothing shows where the windows lie.

    Args:
        picture: (..., H, W).
        windows: the layout; borders of the canvas and beyond the picture do not count.
        period: block size of the operator, if the picture shows its blocks: borders are then compared with lines at the
            same place within a block.
        margin: how far inside of the windows the borders lie.
        sequence: windows were restored one after the other, each held to those before: what one finishes ends at its
            lower and right borders, and the upper and left ones of those that follow lie within what is finished.

    Returns:
        The ratio; 1.0 where no window ends inside the picture, or all lines of the kind are borders.
    """
    total, count = [0.0, 0.0], [0, 0]  # borders, elsewhere
    layout = zip((-2, -1), windows.size, (windows.rows, windows.columns), windows.window, strict=True)
    for dim, side, begins, window in layout:
        steps = picture.double().diff(dim=dim).abs().movedim(dim, 0).flatten(1)
        places = {b + window - 1 - margin for b in begins if b + window < side}
        if not sequence:
            places |= {b - 1 + margin for b in begins if b > 0}
        borders = [edge for edge in sorted(places) if 0 <= edge < len(steps)]
        phases = {edge % period for edge in borders}
        others = [line for line in range(len(steps)) if line % period in phases and line not in places]
        for kind, lines in enumerate((borders, others)):
            total[kind] += float(steps[lines].sum())
            count[kind] += steps[lines].numel()
    if not count[0] or not count[1]:
        return 1.0
    return (total[0] / count[0]) / (total[1] / count[1])
