"""Operators made elsewhere: any object with ``A``, deepinv's physics among them, or one named ``module:function``."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch

from .base import RCOND, LinearOperator, Operator, Spectrum

_SPECTRAL = ("U_adjoint", "U", "V", "V_adjoint", "mask")


def _name(inner: Any) -> str:
    return str(getattr(inner, "__name__", type(inner).__name__))


class ForeignLinear(LinearOperator):
    """A linear object with ``A`` and ``A_adjoint``.

    Its singular value decomposition (``U``, ``U_adjoint``, ``V``, ``V_adjoint``, ``mask``) is used where it has one;
    then its own ``prox_l2`` and ``A_dagger``; conjugate gradients for what is left. Half precision never reaches it.
    """

    def __init__(self, inner: Any) -> None:
        self.inner, self.name = inner, _name(inner)
        self._decomposed = all(getattr(inner, name, None) is not None for name in _SPECTRAL)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.A(x)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.inner.A_adjoint(y)

    def _spectrum(self, like: torch.Tensor) -> Spectrum | None:
        if not self._decomposed:
            return None
        inner = self.inner
        s = torch.as_tensor(inner.mask).to(like)
        return Spectrum(s, inner.V_adjoint, inner.V, inner.U_adjoint, inner.U)

    def count(self, y: torch.Tensor) -> torch.Tensor:
        s = self.inner.mask if self._decomposed else None
        if torch.is_tensor(s) and s.shape[-2:] == y.shape[-2:] and bool(((s == 0) | (s == 1)).all()):
            return s.to(y).expand(y.shape).flatten(1).sum(1).float().clamp_min(1.0)  # a mask: its ones are measured
        return super().count(y)

    def A_dagger(self, y: torch.Tensor, rcond: float | None = None) -> torch.Tensor:
        if self._decomposed or not hasattr(self.inner, "A_dagger"):
            return super().A_dagger(y, rcond)
        return self.inner.A_dagger(self._check_y(y)).to(y.dtype)

    def _prox(self, z: torch.Tensor, y: torch.Tensor, gamma: float) -> torch.Tensor:
        if self._decomposed or not hasattr(self.inner, "prox_l2"):
            return super()._prox(z, y, gamma)
        return self.inner.prox_l2(z, y, gamma)


class ForeignForward(Operator):
    """An object with ``A`` alone: whatever it is, gradients come from automatic differentiation."""

    def __init__(self, inner: Any, shape: tuple[int, ...] | None = None) -> None:
        self.inner, self.name, self._shape = inner, _name(inner), shape

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.A(x)

    def picture_shape(self, y: torch.Tensor) -> tuple[int, ...] | None:
        return self._shape


class DerivedAdjoint(LinearOperator):
    """A linear ``A`` without an adjoint: that one comes from automatic differentiation, which needs the shape.

    Args:
        inner: object with ``A``.
        shape: of one picture, (C, H, W).
    """

    def __init__(self, inner: Any, shape: Sequence[int]) -> None:
        self.inner, self.name, self._shape = inner, _name(inner), tuple(int(n) for n in shape)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.A(x)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = y.new_zeros((len(y), *self._shape)).requires_grad_(True)
            (found,) = torch.autograd.grad(self.inner.A(x), x, y)
        return found


def _is_linear(inner: Any, shape: Sequence[int], like: torch.Tensor) -> bool:
    """Whether A(2 u - v) = 2 A(u) - A(v) on two random pictures, to rounding."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(1, *shape, generator=generator).to(like) for _ in range(2))
    with torch.no_grad():
        expected = 2 * inner.A(u) - inner.A(v)
        off = (inner.A(2 * u - v) - expected).norm()
    return bool(off <= math.sqrt(RCOND) * expected.norm())


def as_operator(found: Any, y: torch.Tensor | None = None, shape: Sequence[int] | None = None) -> Operator:
    """An `Operator` from one, from an object with ``A`` (and more), or from a matrix-like callable.

    Args:
        found: an operator of this package; an object with ``A`` and, if linear, ``A_adjoint``; or a function.
        y: a measurement, whose dtype and device are used to try out an object that says nothing about itself.
        shape: of one picture; with it a linear object without adjoint gets one by automatic differentiation.

    Raises:
        TypeError: an object without ``A``.
    """
    if isinstance(found, Operator):
        return found
    if not hasattr(found, "A"):
        if not callable(found):
            raise TypeError(f"an operator needs a method A(x), and {type(found).__name__} has none")
        found = _Called(found)
    if hasattr(found, "A_adjoint"):
        return ForeignLinear(found)
    if shape is not None and y is not None and _is_linear(found, shape, y):
        return DerivedAdjoint(found, shape)
    return ForeignForward(found, None if shape is None else tuple(int(n) for n in shape))


class _Called:
    def __init__(self, function: Any) -> None:
        self.A, self.__name__ = function, getattr(function, "__name__", type(function).__name__)


def load_operator(name: str, *arguments: Any, **options: Any) -> Operator:
    """The operator that ``module:function`` returns when called with the arguments, or the object of that name.

    Raises:
        ValueError: a name without a colon, a module or a function that does not exist, or one that raises.
        TypeError: what it returns has no ``A``.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f"an operator of one's own is named module:function, got {name!r}")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's module does wrong, its user needs the one sentence
        raise ValueError(f"the operator {name!r} cannot be loaded: {_said(error)}") from error
    try:
        made = getattr(found, function)
    except AttributeError:
        raise ValueError(f"the module {module!r} has no {function!r}") from None
    ready = hasattr(made, "A") and not isinstance(made, type)
    try:
        result = made if ready or not callable(made) else made(*arguments, **options)
    except Exception as error:
        raise ValueError(f"the operator {name!r} cannot be made: {_said(error)}") from error
    return as_operator(result)


def _said(error: Exception) -> str:
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
