"""What JPEG does to a picture: colours to 8 bits, cosine transform of 8 x 8 blocks, rounding to a quality's tables.

Nonlinear, so only methods that need no more than A can use it. Rounding has no slope; gradients pass as if it were not
there.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import avg_pool2d, interpolate, pad

from .base import Constant, Operator

#: Annex K of the standard (ITU-T T.81), at quality 50.
LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
)  # fmt: skip

_TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


def quality_table(table: tuple[int, ...], quality: int) -> torch.Tensor:
    """A quantisation table (8, 8) at a quality of 1 to 100, scaled as libjpeg scales it."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    values = [min(max((entry * scale + 50) // 100, 1), 255) for entry in table]
    return torch.tensor(values, dtype=torch.float64).reshape(8, 8)


def _cosines() -> torch.Tensor:
    k = torch.arange(8, dtype=torch.float64)
    basis = torch.cos(math.pi * k[:, None] * (2 * k + 1) / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


class _Round(torch.autograd.Function):
    """Rounding whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def _round(x: torch.Tensor) -> torch.Tensor:
    return _Round.apply(x)


class Jpeg(Operator):
    """A picture after JPEG compression, without the rounding of the file's pixels to 8 bits.

    Args:
        quality: 1 (worst) to 100, as in libjpeg.
        subsample: halve the colours (4:2:0), as most programs do below quality 90.

    Raises:
        ValueError: a quality out of range.
    """

    def __init__(self, quality: int = 20, subsample: bool = False) -> None:
        if isinstance(quality, bool) or int(quality) != quality or not 1 <= quality <= 100:
            raise ValueError(f"the quality of a JPEG is a whole number in [1, 100], got {quality!r}")
        self.quality, self.subsample = int(quality), subsample
        self.name = f"JPEG at quality {self.quality}"
        self._tables = [Constant(quality_table(table, self.quality)) for table in (LUMA, CHROMA)]
        self._cosines = Constant(_cosines())
        self._ycc = Constant(torch.tensor(_TO_YCC, dtype=torch.float64))
        self._rgb = Constant(torch.linalg.inv(torch.tensor(_TO_YCC, dtype=torch.float64)))

    def picture_shape(self, y: torch.Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])

    def _plane(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Quantise a plane (B, 1, H, W) in the scale of [-128, 127]."""
        h, w = int(x.shape[-2]), int(x.shape[-1])
        x = pad(x, (0, -w % 8, 0, -h % 8), mode="replicate")
        blocks = x.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
        c = self._cosines.like(x)
        quantised = _round(c @ blocks @ c.T / table) * table
        blocks = (c.T @ quantised @ c).transpose(-3, -2)
        return blocks.flatten(-4, -3).flatten(-2, -1)[..., :h, :w]

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"JPEG takes pictures of 1 or 3 channels, got {tuple(x.shape)}")
        luma, chroma = (table.like(x) for table in self._tables)
        x = x * 127.5
        if x.shape[1] == 1:
            return (self._plane(_round(x - 0.5), luma) + 0.5) / 127.5
        ycc = torch.einsum("ij,bjhw->bihw", self._ycc.like(x), x)
        ycc = torch.cat([_round(ycc[:, :1] - 0.5), _round(ycc[:, 1:])], 1)
        planes = [self._plane(ycc[:, :1], luma) + 0.5]
        for k in (1, 2):
            plane = ycc[:, k : k + 1]
            if self.subsample:
                size = plane.shape[-2:]
                half = avg_pool2d(pad(plane, (0, size[1] % 2, 0, size[0] % 2), mode="replicate"), 2)
                full = interpolate(self._plane(half, chroma), scale_factor=2.0, mode="bilinear", align_corners=False)
                plane = full[..., : size[0], : size[1]]
            else:
                plane = self._plane(plane, chroma)
            planes.append(plane)
        return torch.einsum("ij,bjhw->bihw", self._rgb.like(x), torch.cat(planes, 1)) / 127.5
