"""Blurs: Gaussian with a mirrored border, exact and separable; any kernel by FFT, on a circle or mirrored.

A blurred photograph is not periodic. `CircularBlur` has an exact spectrum, so pad the measurement to a mirrored canvas
(`pad_canvas`), restore the canvas, and crop (`crop_canvas`); or use `MirrorBlur`, which keeps the size and has no
spectrum, or `GaussianBlur`, which has both.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .base import Constant, LinearOperator, Spectrum
from .separable import Factor, Separable, check_side


def gaussian_kernel(sigma: float, radius: int) -> torch.Tensor:
    """exp(-k^2 / 2 sigma^2) for |k| <= radius, (2 radius + 1,) float64, sum 1.

    Raises:
        ValueError: sigma not above 0, radius below 0.
    """
    if not (math.isfinite(sigma) and sigma > 0) or radius < 0:
        raise ValueError(f"a Gaussian blur needs a sigma above 0 and a radius of at least 0, got {sigma!r}, {radius!r}")
    k = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-(k**2) / (2 * sigma**2))
    return weights / weights.sum()


def mirror_index(length: int, radius: int) -> torch.Tensor:
    """Which pixel stands at -radius .. length + radius - 1 when a line is mirrored, edge pixels repeated."""
    k = torch.arange(-radius, length + radius) % (2 * length)
    return torch.minimum(k, 2 * length - 1 - k)


def _cosine_factor(length: int, sigma: float, radius: int) -> Factor:
    """Gaussian blur of a mirrored line: the cosine transform (DCT-II) diagonalises it, so its SVD is known."""
    check_side(length)
    kernel = gaussian_kernel(sigma, radius)
    k = torch.arange(length, dtype=torch.float64)
    basis = torch.cos(math.pi * k[:, None] * (k + 0.5) / length) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    lags = torch.arange(-radius, radius + 1, dtype=torch.float64)
    values = torch.cos(math.pi * k[:, None] * lags / length) @ kernel
    signs = torch.where(values < 0, -1.0, 1.0).to(values)
    return Factor((basis.T * values) @ basis, ((basis * signs[:, None]).T, values.abs(), basis.T))


class GaussianBlur(Separable):
    """Gaussian blur with a mirrored border (edge pixels repeated), of the same size as the picture.

    Args:
        size: (H, W) of the pictures.
        sigma: of the Gaussian, in pixels.
        kernel_size: odd; the kernel is cut off there and normalised.

    Raises:
        ValueError: an even kernel size, sigma not above 0.
    """

    def __init__(self, size: tuple[int, int], sigma: float = 3.0, kernel_size: int = 61) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"the kernel size of a blur must be odd and at least 1, got {kernel_size!r}")
        radius = kernel_size // 2
        vertical = _cosine_factor(size[0], sigma, radius)
        horizontal = vertical if size[0] == size[1] else _cosine_factor(size[1], sigma, radius)
        super().__init__(vertical, horizontal, "Gaussian blur")
        self.sigma, self.kernel_size = sigma, kernel_size


def check_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """A blur kernel as float64 (h, w).

    Raises:
        ValueError: not two odd sides, entries that are not finite, sum 0.
    """
    kernel = kernel.to(torch.float64)
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"a blur kernel has two odd sides, (h, w), got {tuple(kernel.shape)}")
    if not torch.isfinite(kernel).all() or kernel.sum() == 0:
        raise ValueError("a blur kernel needs finite entries whose sum is not 0")
    return kernel


def _transfer(kernel: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Transfer function of a centred kernel on a circle of this size (rfft2), complex128; wraps if it is larger."""
    canvas = torch.zeros(size, dtype=torch.float64)
    rows = (torch.arange(kernel.shape[0]) - kernel.shape[0] // 2) % size[0]
    columns = (torch.arange(kernel.shape[1]) - kernel.shape[1] // 2) % size[1]
    canvas.index_put_((rows[:, None], columns[None, :]), kernel, accumulate=True)
    return torch.fft.rfft2(canvas)


class CircularBlur(LinearOperator):
    """Convolution with a kernel on a circle (the picture wraps around), diagonal in the Fourier basis.

    Args:
        kernel: (h, w), odd sides, centred.
        size: (H, W) of the pictures.
    """

    name = "circular blur"

    def __init__(self, kernel: torch.Tensor, size: tuple[int, int]) -> None:
        self.kernel, self.size = check_kernel(kernel), (int(size[0]), int(size[1]))
        transfer = _transfer(self.kernel, self.size)
        gain = transfer.abs()
        self.transfer, self.gain = Constant(transfer), Constant(gain)
        self.phase = Constant(torch.where(gain > 0, transfer / gain.clamp_min(1e-300), 1.0))

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(x, norm="ortho")

    def _back(self, c: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft2(c, s=self.size, norm="ortho")

    def _check_y(self, y: torch.Tensor) -> torch.Tensor:
        return self._check(y)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return self._back(self.transfer.like(x) * self._forward(x))

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._back(self.transfer.like(y).conj() * self._forward(y))

    def _spectrum(self, like: torch.Tensor) -> Spectrum:
        phase = self.phase.like(like)
        return Spectrum(
            self.gain.like(like),
            self._forward,
            self._back,
            lambda y: phase.conj() * self._forward(y),
            lambda c: self._back(phase * c),
        )


class MirrorBlur(LinearOperator):
    """Convolution with a kernel and a mirrored border (edge pixels repeated), of the same size as the picture.

    A = crop . circular blur . mirror. The adjoint is exact; pseudo-inverse and proximal map come from conjugate
    gradients, preconditioned with the circular blur.

    Args:
        kernel: (h, w), odd sides, centred, at most twice the picture.
        size: (H, W) of the pictures.
    """

    name = "mirror blur"

    def __init__(self, kernel: torch.Tensor, size: tuple[int, int]) -> None:
        self.kernel, self.size = check_kernel(kernel), (int(size[0]), int(size[1]))
        self.radius = (self.kernel.shape[0] // 2, self.kernel.shape[1] // 2)
        rows, columns = (mirror_index(n, r) for n, r in zip(self.size, self.radius, strict=True))
        self._rows, self._columns = rows, columns
        self._canvas = CircularBlur(self.kernel, (len(rows), len(columns)))
        self._circular = CircularBlur(self.kernel, self.size)

    def _check_y(self, y: torch.Tensor) -> torch.Tensor:
        return self._check(y)

    def _inner(self, x: torch.Tensor) -> torch.Tensor:
        (rh, rw), (h, w) = self.radius, self.size or (0, 0)
        return x[..., rh : rh + h, rw : rw + w]

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = self._rows.to(x.device), self._columns.to(x.device)
        return self._inner(self._canvas._apply(x.index_select(-2, rows).index_select(-1, columns)))

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        rows, columns = self._rows.to(y.device), self._columns.to(y.device)
        (rh, rw), (h, w) = self.radius, self.size or (0, 0)
        z = self._canvas._adjoint(torch.nn.functional.pad(y, (rw, rw, rh, rh)))
        z = z.new_zeros((*z.shape[:-1], w)).index_add_(-1, columns, z)
        return z.new_zeros((*z.shape[:-2], h, w)).index_add_(-2, rows, z)

    def _preconditioner(self, gamma: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def precondition(r: torch.Tensor) -> torch.Tensor:
            circle = self._circular
            return circle._back(circle._forward(r) / (1 + gamma * circle.gain.like(r).square()))

        return precondition


def pad_canvas(y: torch.Tensor, margin: int) -> torch.Tensor:
    """A picture with a mirrored margin of so many pixels on every side (edge pixels repeated), (..., H, W)."""
    if margin < 0:
        raise ValueError(f"the margin of a canvas must be at least 0 pixels, got {margin!r}")
    rows, columns = (mirror_index(int(n), margin).to(y.device) for n in y.shape[-2:])
    return y.index_select(-2, rows).index_select(-1, columns)


def crop_canvas(x: torch.Tensor, margin: int) -> torch.Tensor:
    """The picture inside of a canvas."""
    return x[..., margin : x.shape[-2] - margin, margin : x.shape[-1] - margin] if margin else x


def motion_kernel(size: int = 31, seed: int = 0, smoothness: float = 0.9) -> torch.Tensor:
    """A synthetic camera shake: the path of a random walk with inertia, drawn on a grid, (size, size), sum 1.

    Args:
        size: odd side in pixels.
        seed: of the walk.
        smoothness: share of the velocity that is kept from one of the 256 steps to the next, in [0, 1).

    Raises:
        ValueError: an even size, smoothness out of range.
    """
    if size < 1 or size % 2 == 0 or not 0 <= smoothness < 1:
        raise ValueError(f"a motion kernel needs an odd size and a smoothness in [0, 1), got {size!r}, {smoothness!r}")
    steps = 256
    pushes = torch.randn(steps, 2, generator=torch.Generator().manual_seed(int(seed)), dtype=torch.float64)
    velocity, place, path = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), []
    for push in pushes:
        velocity = smoothness * velocity + push
        place = place + velocity
        path.append(place)
    track = torch.stack(path)
    track = track - (track.amin(0) + track.amax(0)) / 2
    half = size // 2
    reach = max(float(track.abs().max()), 1e-12)
    track = track / reach * max(half - 1, 0) + half
    kernel = torch.zeros(size * size, dtype=torch.float64)
    corner = track.floor().clamp(0, max(size - 2, 0))
    part = track - corner
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (part[:, 0] if dy else 1 - part[:, 0]) * (part[:, 1] if dx else 1 - part[:, 1])
            at = ((corner[:, 0] + dy).clamp_max(size - 1) * size + (corner[:, 1] + dx).clamp_max(size - 1)).long()
            kernel.index_add_(0, at, weight)
    return (kernel / kernel.sum()).reshape(size, size)
