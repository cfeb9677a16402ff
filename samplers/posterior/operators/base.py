"""What an operator is: A, and for linear ones its adjoint, pseudo-inverse, proximal map and spectrum.

The names are those of deepinv's physics objects (``A``, ``A_adjoint``, ``A_dagger``, ``prox_l2``), so that either can
stand for the other. Every operator follows the dtype and device of its input; half precision is computed in float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .solvers import cgls, conjugate_gradients

#: Singular values below this share of the largest count as zero in a pseudo-inverse, unless said otherwise.
RCOND = 1e-6


def working(x: torch.Tensor) -> torch.Tensor:
    """`x`, in float32 if it is half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Constant:
    """A float64 (complex128) tensor that is handed out in the dtype and on the device of its partner."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value.to(torch.complex128 if value.is_complex() else torch.float64)
        self._made: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def like(self, x: torch.Tensor) -> torch.Tensor:
        """The value for working with `x`, complex if it is."""
        dtype = x.dtype
        if self.value.is_complex() and not dtype.is_complex:
            dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
        key = (dtype, x.device)
        if key not in self._made:
            self._made[key] = self.value.to(device=x.device, dtype=dtype)
        return self._made[key]


@dataclass(frozen=True)
class Spectrum:
    """A = U S V^T in coefficients: singular values and the three maps between them, pictures and measurements.

    Attributes:
        s: singular values, 0 or above, to be broadcast with the coefficients.
        analyse: V^T x, the coefficients of a picture.
        synthesise: V c, the picture of coefficients. Directions that have no coefficient belong to the null space.
        measure: U^T y, the coefficients of a measurement.
        spread: U c, the measurement of coefficients.
    """

    s: torch.Tensor
    analyse: Callable[[torch.Tensor], torch.Tensor]
    synthesise: Callable[[torch.Tensor], torch.Tensor]
    measure: Callable[[torch.Tensor], torch.Tensor]
    spread: Callable[[torch.Tensor], torch.Tensor]

    def inverse(self, rcond: float) -> torch.Tensor:
        """1 / s, and 0 where s is at most `rcond` times the largest."""
        held = self.s > rcond * self.s.max()
        return torch.where(held, 1 / torch.where(held, self.s, 1.0), 0.0)


class Operator(ABC):
    """A map from pictures (B, C, H, W) in [-1, 1] to measurements, differentiable, one picture at a time.

    Attributes:
        name: for messages.
        size: (H, W) of the pictures it takes; None for any.
    """

    name: str = "operator"
    size: tuple[int, int] | None = None

    @abstractmethod
    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        """A x in the dtype of x, float32 or float64."""

    def _check(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim < 2:
            raise ValueError(f"{self.name} takes a batch of pictures (B, C, H, W), got a tensor of {tuple(x.shape)}")
        if self.size is not None and tuple(x.shape[-2:]) != self.size:
            raise ValueError(
                f"{self.name} is made for pictures of {self.size[0]} x {self.size[1]} (height x width), got "
                f"{tuple(x.shape)}"
            )
        return working(x)

    def A(self, x: torch.Tensor) -> torch.Tensor:
        """The measurement of pictures, without noise."""
        return self._apply(self._check(x)).to(x.dtype)

    __call__ = A

    def vjp(self, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """J^T v with J = dA/dx at x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (found,) = torch.autograd.grad(self.A(x), x, v)
        return found

    def count(self, y: torch.Tensor) -> torch.Tensor:
        """How many numbers of y are measured, (B,) or a scalar tensor: what a mean over the residual divides by."""
        return torch.tensor(float(y[0].numel()), device=y.device)

    def picture_shape(self, y: torch.Tensor) -> tuple[int, ...] | None:
        """(C, H, W) of the picture that y was made of, if it follows from y."""
        return None


class LinearOperator(Operator):
    """A linear operator. A subclass gives `_apply` and `_adjoint`, and `_spectrum` where it has one in closed form.

    With a spectrum the pseudo-inverse and the proximal map are exact; otherwise conjugate gradients find them, to
    `tolerance` relative or `iterations` at most, whichever comes first.
    """

    tolerance: float = 1e-6
    iterations: int = 50

    @abstractmethod
    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """A^T y in the dtype of y, float32 or float64."""

    def _spectrum(self, like: torch.Tensor) -> Spectrum | None:
        return None

    def spectrum(self, like: torch.Tensor) -> Spectrum | None:
        """A = U S V^T in closed form for tensors like `like`, or None."""
        return self._spectrum(working(like))

    def _check_y(self, y: torch.Tensor) -> torch.Tensor:
        return working(y)

    def A_adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """A^T y."""
        return self._adjoint(self._check_y(y)).to(y.dtype)

    def vjp(self, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.A_adjoint(v)

    def picture_shape(self, y: torch.Tensor) -> tuple[int, ...] | None:
        return tuple(self.A_adjoint(y[:1]).shape[1:])

    def A_dagger(self, y: torch.Tensor, rcond: float | None = None) -> torch.Tensor:
        """A^+ y: the shortest x among those that minimise |A x - y|.

        Args:
            rcond: singular values of at most this share of the largest count as zero; by default 1e-6. An operator
                without a spectrum ignores it: there the number of iterations is what regularises.
        """
        b = self._check_y(y)
        spectrum = self._spectrum(b)
        if spectrum is not None:
            gain = spectrum.inverse(RCOND if rcond is None else rcond)
            return spectrum.synthesise(gain * spectrum.measure(b)).to(y.dtype)
        return cgls(self._apply, self._adjoint, b, self.tolerance, self.iterations).to(y.dtype)

    def project(self, x: torch.Tensor, y: torch.Tensor, rcond: float | None = None) -> torch.Tensor:
        """x + A^+(y - A x): the nearest picture to x that has the measurement y."""
        return x + self.A_dagger(y - self.A(x), rcond)

    def prox_l2(self, z: torch.Tensor, y: torch.Tensor, gamma: float) -> torch.Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2; the result differs from z within the range of A^T alone.

        Raises:
            ValueError: gamma that is negative or no finite number.
        """
        if not (math.isfinite(gamma) and gamma >= 0):
            raise ValueError(f"gamma must be a finite number of at least 0, got {gamma!r}")
        return self._prox(self._check(z), self._check_y(y), gamma).to(z.dtype)

    def _prox(self, z: torch.Tensor, y: torch.Tensor, gamma: float) -> torch.Tensor:
        spectrum = self._spectrum(z)
        if spectrum is not None:
            s = spectrum.s
            off = spectrum.measure(y) - s * spectrum.analyse(z)
            return z + spectrum.synthesise(gamma * s / (1 + gamma * s * s) * off)
        b = gamma * self._adjoint(y - self._apply(z))
        return z + conjugate_gradients(lambda v: v + gamma * self._adjoint(self._apply(v)), b, self.tolerance,
                                       self.iterations, self._preconditioner(gamma))  # fmt: skip

    def _preconditioner(self, gamma: float) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """An approximate inverse of 1 + gamma A^T A, symmetric and positive, for the conjugate gradients."""
        return None

    def norm(self, like: torch.Tensor) -> float:
        """Largest singular value: of the spectrum, or by 30 power iterations from a fixed start, for x like `like`.

        Found once for every size of picture.
        """
        known: dict[tuple[int, ...], float] = self.__dict__.setdefault("_norms", {})
        key = tuple(like.shape[1:])
        if key not in known:
            known[key] = self._find_norm(like)
        return known[key]

    def _find_norm(self, like: torch.Tensor) -> float:
        spectrum = self.spectrum(like)
        if spectrum is not None:
            return float(spectrum.s.max())
        x = working(like)
        v = torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).to(x)
        for _ in range(30):
            v = self._adjoint(self._apply(v / v.norm().clamp_min(1e-30)))
        return float(v.norm()) ** 0.5
