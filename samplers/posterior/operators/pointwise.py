"""Operators that look at one pixel at a time: identity, mask, greyscale."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .base import Constant, LinearOperator, Spectrum


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


class Identity(LinearOperator):
    """A = I: denoising."""

    name = "identity"

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return y

    def _spectrum(self, like: torch.Tensor) -> Spectrum:
        return Spectrum(torch.ones((), dtype=like.dtype, device=like.device), _same, _same, _same, _same)


class Mask(LinearOperator):
    """Inpainting: y is the picture where the mask is 1 and 0 elsewhere.

    Args:
        mask: 1 or True = known, 0 or False = missing; (H, W), (1, H, W), (C, H, W) or (B, C, H, W).

    Raises:
        ValueError: other values, or another shape.
    """

    name = "mask"

    def __init__(self, mask: torch.Tensor) -> None:
        known = mask.to(torch.float64)
        if known.ndim not in (2, 3, 4):
            raise ValueError(f"a mask has the shape (H, W), (C, H, W) or (B, C, H, W), got {tuple(known.shape)}")
        if not ((known == 0) | (known == 1)).all():
            raise ValueError("a mask holds 1 (known) and 0 (missing) only; threshold it first")
        self.mask = Constant(known.reshape((1,) * (4 - known.ndim) + tuple(known.shape)))
        self.size = (int(known.shape[-2]), int(known.shape[-1]))

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask.like(x)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._apply(y)

    def _check_y(self, y: torch.Tensor) -> torch.Tensor:
        return self._check(y)

    def _spectrum(self, like: torch.Tensor) -> Spectrum:
        return Spectrum(self.mask.like(like), _same, _same, _same, _same)

    def A_dagger(self, y: torch.Tensor, rcond: float | None = None) -> torch.Tensor:
        return self.A(y)

    def project(self, x: torch.Tensor, y: torch.Tensor, rcond: float | None = None) -> torch.Tensor:
        """Known pixels from y, exactly; the others from x."""
        return torch.where(self.mask.like(x) > 0, y, x)

    def count(self, y: torch.Tensor) -> torch.Tensor:
        counts = self.mask.like(y).expand(y.shape).flatten(1).sum(1).float()
        return counts.clamp_min(1.0)


#: Weights of red, green and blue in the luma of Rec. 601.
REC601 = (0.299, 0.587, 0.114)


class Grey(LinearOperator):
    """Colours to one channel: y = sum_c w_c x_c.

    Args:
        weights: one a channel; `REC601`, or equal ones for the mean.

    Raises:
        ValueError: fewer than two weights, or all of them 0.
    """

    name = "grey"

    def __init__(self, weights: Sequence[float] = REC601) -> None:
        w = torch.tensor([float(v) for v in weights], dtype=torch.float64)
        if len(w) < 2 or not w.abs().sum() > 0 or not torch.isfinite(w).all():
            raise ValueError(f"greyscale needs at least two finite weights that are not all 0, got {list(weights)}")
        self.weights = Constant(w[:, None, None])
        self._length = float(w.norm())

    @classmethod
    def mean(cls, channels: int = 3) -> Grey:
        """The mean of the channels."""
        return cls([1 / channels] * channels)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weights.like(x)
        if x.shape[1] != len(w):
            raise ValueError(f"this greyscale takes pictures of {len(w)} channels, got {x.shape[1]}")
        return (x * w).sum(1, keepdim=True)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return y * self.weights.like(y)

    def _spectrum(self, like: torch.Tensor) -> Spectrum:
        scale = self._length
        return Spectrum(
            torch.full((), scale, dtype=like.dtype, device=like.device),
            lambda x: self._apply(x) / scale,
            lambda c: self._adjoint(c) / scale,
            _same,
            _same,
        )
