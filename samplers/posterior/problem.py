"""The inverse problem: y = A x + sigma_y n, and what every method needs of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..core.process import Node
from .operators.base import LinearOperator, Operator
from .prior import Hook

#: Rounding to 8 bits is noise of this standard deviation in [-1, 1]: a step of 2/255, uniform.
EIGHT_BIT_SIGMA = 2 / (255 * math.sqrt(12))


@dataclass(frozen=True)
class Problem:
    """A measurement, the operator that made it, and its noise.

    Attributes:
        operator: A, from `operators.as_operator`.
        y: measurement, (B, ...), in the scale of pictures in [-1, 1].
        sigma_y: standard deviation of the noise, in the scale of [-1, 1] (twice that of [0, 1]); 0 for none.
        decode: from the sampled space to pictures (a VAE's decoder, differentiable); None where they are the same.
        encode: the way back.
        after: last word on the corrected clean estimate, ``after(x0, node)``: mask-shift restoration pastes the
            finished part of its neighbours here.
    """

    operator: Operator
    y: torch.Tensor
    sigma_y: float = 0.0
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None
    encode: Callable[[torch.Tensor], torch.Tensor] | None = None
    after: Hook | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma_y) and self.sigma_y >= 0):
            raise ValueError(f"sigma_y must be a finite number of at least 0, got {self.sigma_y!r}")

    @property
    def linear(self) -> LinearOperator:
        """The operator, which must be linear.

        Raises:
            TypeError: it is not.
        """
        if not isinstance(self.operator, LinearOperator):
            raise TypeError(
                f"this needs a linear operator, and {self.operator.name} is none; dps, daps and red-diff "
                "(or stsl on latents) need no more than a differentiable one"
            )
        return self.operator

    def picture(self, x0: torch.Tensor) -> torch.Tensor:
        """The picture of a clean estimate: decoded, where there is a decoder."""
        return x0 if self.decode is None else self.decode(x0)

    def residual(self, x0: torch.Tensor) -> torch.Tensor:
        """y - A D(x0), in the shape of y."""
        return self.y - self.operator.A(self.picture(x0))

    def size_of(self, residual: torch.Tensor) -> torch.Tensor:
        """Root mean square of a residual over the numbers that were measured, (B,); sigma_y for a true picture."""
        count = self.operator.count(self.y)
        return residual.detach().flatten(1).float().square().sum(1).div(count).sqrt()

    def correct(self, x0: torch.Tensor, gamma: float, rcond: float | None = None) -> torch.Tensor:
        """argmin_x gamma/2 |y - A x|^2 + |x - x0|^2 / 2; the projection x0 + A^+(y - A x0) for gamma = inf."""
        if math.isinf(gamma):
            return self.linear.project(x0, self.y, rcond)
        return self.linear.prox_l2(x0, self.y, gamma)

    def settle(self, x0: torch.Tensor, node: Node) -> torch.Tensor:
        """A corrected estimate after the hook."""
        return x0 if self.after is None else self.after(x0, node)
