"""Panoramas of the whole sphere and the tangent planes that look at it.

A panorama (equirectangular) has H rows of latitude, from pi/2 at the top, and W columns of longitude on [-pi, pi);
pixel centres lie half a pixel in. A tangent plane at (latitude p0, longitude l0) sees the sphere by the gnomonic
projection:

    cos c = sin p0 sin p + cos p0 cos p cos(l - l0)
    u = cos p sin(l - l0) / cos c,      v = (cos p0 sin p - sin p0 cos p cos(l - l0)) / cos c.

Geometry and weights: Li, Sheng, Li, Zhang 2024, OmniSSR (arXiv 2404.10312).
"""

from __future__ import annotations

import math
from functools import cached_property

import torch

#: Latitudes in degrees and number of planes around each: 18 in all.
ROWS = ((67.5, 3), (22.5, 6), (-22.5, 6), (-67.5, 3))
#: Variance of the Gaussian that weights a plane, in units of its side squared.
WEIGHT_VARIANCE = 0.01
_MARGIN = 4  # pixels around a picture for the cubic kernel


class TangentPlanes:
    """18 square pictures that cover the sphere, and the way there and back by cubic interpolation.

    Args:
        size: (H, W) of the panorama, W even.
        side: of a plane, in pixels.
        fov: field of view of a plane in degrees, 70 to 120; below 70 parts of the sphere are in no plane.

    Raises:
        ValueError: other sizes or angles.
    """

    def __init__(self, size: tuple[int, int], side: int, fov: float = 75.0) -> None:
        if size[0] < 2 * _MARGIN or size[1] < 2 * _MARGIN or size[1] % 2:
            raise ValueError(f"a panorama has at least 8 rows and an even number of columns, got {size[0]} x {size[1]}")
        if side < 2 or not 70 <= fov <= 120:
            raise ValueError(f"planes have a side of at least 2 and a view of 70 to 120 degrees, got {side!r}, {fov!r}")
        self.size, self.side, self.extent = (int(size[0]), int(size[1])), int(side), math.tan(math.radians(fov) / 2)
        self.centres = [
            (math.radians(latitude), -math.pi + (k + 0.5) * 2 * math.pi / count)
            for latitude, count in ROWS
            for k in range(count)
        ]

    def __len__(self) -> int:
        return len(self.centres)

    @cached_property
    def _seen(self) -> list[torch.Tensor]:
        """Where the pixels of every plane look, as (row, column) of the panorama, (side, side, 2) each."""
        line = ((torch.arange(self.side, dtype=torch.float64) + 0.5) * 2 / self.side - 1) * self.extent
        u, v = line[None, :], -line[:, None]
        found = []
        for p0, l0 in self.centres:
            depth = (1 + u**2 + v**2).sqrt()  # 1 / cos c
            latitude = ((math.sin(p0) + v * math.cos(p0)) / depth).clamp(-1, 1).asin()
            longitude = l0 + torch.atan2(u + 0 * v, math.cos(p0) - v * math.sin(p0))
            row = (0.5 - latitude / math.pi) * self.size[0] - 0.5
            column = ((longitude + math.pi) / (2 * math.pi) * self.size[1]) % self.size[1] - 0.5
            found.append(torch.stack([row, column], -1))
        return found

    @cached_property
    def _placed(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Of every plane: the panorama's pixels that it sees (flat), where they lie on it (row, column), weights."""
        height, width = self.size
        latitude = (0.5 - (torch.arange(height, dtype=torch.float64)[:, None] + 0.5) / height) * math.pi
        longitude = (torch.arange(width, dtype=torch.float64) + 0.5) / width * 2 * math.pi - math.pi
        found, total = [], torch.zeros(height * width, dtype=torch.float64)
        for p0, l0 in self.centres:
            across = latitude.cos() * (longitude - l0).cos()
            cosine = math.sin(p0) * latitude.sin() + math.cos(p0) * across
            ahead = cosine.clamp_min(1e-9)
            u = latitude.cos() * (longitude - l0).sin() / ahead
            v = (math.cos(p0) * latitude.sin() - math.sin(p0) * across) / ahead
            inside = ((cosine > 0) & (u.abs() <= self.extent) & (v.abs() <= self.extent)).flatten().nonzero().flatten()
            u, v = (part.flatten()[inside] / (2 * self.extent) for part in (u, v))  # in units of the side
            weight = torch.exp(-(u**2 + v**2) / (2 * WEIGHT_VARIANCE))
            total[inside] += weight
            found.append((inside, torch.stack([(0.5 - v) * self.side - 0.5, (0.5 + u) * self.side - 0.5], -1), weight))
        return [(inside, places, weight / total[inside]) for inside, places, weight in found]

    def coverage(self) -> float:
        """Share of the panorama's pixels that some plane sees."""
        seen = torch.zeros(self.size[0] * self.size[1], dtype=torch.bool)
        for inside, _, _ in self._placed:
            seen[inside] = True
        return float(seen.double().mean())

    def planes(self, panorama: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) -> (18, C, side, side)."""
        if panorama.ndim != 4 or len(panorama) != 1 or tuple(panorama.shape[-2:]) != self.size:
            raise ValueError(
                f"one panorama (1, C, {self.size[0]}, {self.size[1]}) is seen, got {tuple(panorama.shape)}"
            )
        around = wrapped(panorama, _MARGIN)
        return torch.cat([_sampled(around, places + _MARGIN) for places in self._seen])

    def panorama(self, planes: torch.Tensor) -> torch.Tensor:
        """(18, C, side, side) -> (1, C, H, W): the weighted mean of the planes that see a pixel."""
        if planes.ndim != 4 or len(planes) != len(self) or tuple(planes.shape[-2:]) != (self.side, self.side):
            expected = f"({len(self)}, C, {self.side}, {self.side})"
            raise ValueError(f"a panorama is made of planes {expected}, got {tuple(planes.shape)}")
        result = planes.new_zeros((planes.shape[1], self.size[0] * self.size[1]))
        for plane, (inside, places, weight) in zip(planes, self._placed, strict=True):
            values = _sampled(plane[None], places[None])[0, :, 0]
            result.index_add_(1, inside.to(planes.device), values * weight.to(planes))
        return result.reshape(1, -1, *self.size)


def wrapped(panorama: torch.Tensor, margin: int) -> torch.Tensor:
    """A panorama with what lies beyond its borders: round the back, and over the poles."""
    top = panorama[..., :margin, :].flip(-2).roll(panorama.shape[-1] // 2, -1)
    bottom = panorama[..., -margin:, :].flip(-2).roll(panorama.shape[-1] // 2, -1)
    tall = torch.cat([top, panorama, bottom], -2)
    return torch.cat([tall[..., -margin:], tall, tall[..., :margin]], -1)


def _weights(part: torch.Tensor) -> torch.Tensor:
    """Keys' cubic kernel of third order (a = -1/2) at the pixels -1, 0, 1, 2 around `part` in [0, 1), (..., 4)."""
    t = torch.stack([part + 1, part, 1 - part, 2 - part], -1)
    return torch.where(t <= 1, 1 + t * t * (1.5 * t - 2.5), 2 + t * (t * (2.5 - 0.5 * t) - 4))


def _sampled(picture: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Values at (row, column) in pixels, (h, w, 2), by cubic convolution; borders repeated.

    It gives quadratics exactly, which the kernel of `torch.nn.functional.grid_sample` (a = -3/4) does not.

    Reference: Keys 1981, Cubic Convolution Interpolation for Digital Image Processing.
    """
    height, width = picture.shape[-2:]
    whole = places.floor()
    down, across = (_weights(part).to(picture) for part in (places - whole).unbind(-1))
    first = whole.long().to(picture.device)
    result = picture.new_zeros((*picture.shape[:-2], *places.shape[:-1]))
    for i in range(4):
        row = (first[..., 0] + i - 1).clamp(0, height - 1) * width
        line = torch.zeros_like(result)
        for j in range(4):
            column = (first[..., 1] + j - 1).clamp(0, width - 1)
            line += picture.flatten(-2)[..., row + column] * across[..., j]
        result += line * down[..., i]
    return result
