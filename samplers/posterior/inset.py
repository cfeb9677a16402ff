"""A picture on a larger canvas: operators that see a part of it, and the same with coarse pixels."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d, pad

from .operators.base import LinearOperator, Operator, Spectrum
from .operators.compose import Chain
from .windows import Box


def cropping(size: tuple[int, int], box: Box) -> Inset:
    """The operator that cuts `box` out of a canvas (H, W)."""
    return Inset(None, size, box)


class Inset(LinearOperator):
    """A crop of the canvas, and then a linear operator: A(x) = inner(crop(x)).

    The rows of a crop are orthonormal, so pseudo-inverse, proximal map and spectrum are the inner ones with zeros
    around: exact wherever those are.

    Args:
        inner: acts on the part; None for the crop alone.
        size: (H, W) of the canvas.
        box: the part.

    Raises:
        ValueError: a part that is not on the canvas, an operator that is made for another size.
    """

    def __init__(self, inner: LinearOperator | None, size: tuple[int, int], box: Box) -> None:
        if box.top < 0 or box.left < 0 or box.bottom > size[0] or box.right > size[1] or min(box.size) < 1:
            raise ValueError(f"{box} does not lie on a canvas of {size[0]} x {size[1]}")
        if inner is not None and inner.size not in (None, box.size):
            raise ValueError(f"{inner.name} is made for pictures of {inner.size}, and the part has {box.size}")
        self.inner, self.size, self.box = inner, (int(size[0]), int(size[1])), box
        self.name = "crop" if inner is None else inner.name

    def _pad(self, x: torch.Tensor) -> torch.Tensor:
        assert self.size is not None
        box = self.box
        return pad(x, (box.left, self.size[1] - box.right, box.top, self.size[0] - box.bottom))

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        part = self.box.of(x)
        return part if self.inner is None else self.inner.A(part)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._pad(y if self.inner is None else self.inner.A_adjoint(y))

    def A_dagger(self, y: torch.Tensor, rcond: float | None = None) -> torch.Tensor:
        return self._pad(y if self.inner is None else self.inner.A_dagger(y, rcond))

    def project(self, x: torch.Tensor, y: torch.Tensor, rcond: float | None = None) -> torch.Tensor:
        part = self.box.of(x)
        return self._with(x, y if self.inner is None else self.inner.project(part, y, rcond))

    def _prox(self, z: torch.Tensor, y: torch.Tensor, gamma: float) -> torch.Tensor:
        part = self.box.of(z)
        if self.inner is None:
            return self._with(z, part + gamma / (1 + gamma) * (y - part))
        return self._with(z, self.inner.prox_l2(part, y, gamma))

    def _with(self, x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        self.box.of(x).copy_(part)
        return x

    def _spectrum(self, like: torch.Tensor) -> Spectrum | None:
        if self.inner is None:
            one = torch.ones((), dtype=like.dtype, device=like.device)
            return Spectrum(one, self._apply, self._adjoint, lambda y: y, lambda c: c)
        found = self.inner.spectrum(like)
        if found is None:
            return None
        return Spectrum(
            found.s,
            lambda x: found.analyse(self.box.of(x)),
            lambda c: self._pad(found.synthesise(c)),
            found.measure,
            found.spread,
        )

    def count(self, y: torch.Tensor) -> torch.Tensor:
        return super().count(y) if self.inner is None else self.inner.count(y)


def inset(operator: Operator, size: tuple[int, int], canvas: tuple[int, int]) -> Operator:
    """The operator for a canvas whose top left part is the picture (H, W); the operator itself if that is all."""
    if size == canvas:
        return operator
    box = Box(0, 0, *size)
    if isinstance(operator, LinearOperator):
        return Inset(operator, canvas, box)
    return Chain([cropping(canvas, box), operator])


def blockmeans(x: torch.Tensor, factor: int) -> torch.Tensor:
    """P x: means of blocks of `factor` x `factor` pixels, (..., H, W) -> (..., H / factor, W / factor)."""
    return avg_pool2d(x, factor)


def replicated(x: torch.Tensor, factor: int) -> torch.Tensor:
    """P^+ x: every pixel made a block of `factor` x `factor`."""
    return x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


class Replicate(LinearOperator):
    """Every pixel made a block: the pseudo-inverse P^+ of the mean over blocks. All singular values are `factor`.

    Args:
        factor: side of a block.
        size: (H, W) of the small picture.
    """

    name = "replication"

    def __init__(self, factor: int, size: tuple[int, int]) -> None:
        self.factor, self.size = int(factor), (int(size[0]), int(size[1]))

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return replicated(x, self.factor)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return blockmeans(y, self.factor) * self.factor**2

    def _spectrum(self, like: torch.Tensor) -> Spectrum:
        f = self.factor
        s = torch.full((), float(f), dtype=like.dtype, device=like.device)
        return Spectrum(s, lambda x: x, lambda c: c, lambda y: blockmeans(y, f) * f, lambda c: replicated(c, f) / f)
