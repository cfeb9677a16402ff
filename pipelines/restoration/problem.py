"""What a user hands in, checked: the measurement, the operator, and the size of the picture behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fewstep.samplers.posterior import Operator, as_operator


def check_measurement(measurement: Any) -> torch.Tensor:
    """A measurement that can be worked with.

    Raises:
        TypeError: no tensor.
        ValueError: no batch, no floating-point numbers, entries that are not finite.
    """
    if not isinstance(measurement, torch.Tensor):
        raise TypeError(
            f"the measurement is a tensor (B, ...) in the scale of [-1, 1], as operator.A makes it; got "
            f"{type(measurement).__name__}"
        )
    if measurement.ndim < 2 or not measurement.numel():
        raise ValueError(
            f"the measurement is a batch of at least one, (B, C, h, w) as operator.A makes it; got the shape "
            f"{tuple(measurement.shape)}"
        )
    if not measurement.is_floating_point():
        raise ValueError(
            f"the measurement is made of floating-point numbers in the scale of [-1, 1], got {measurement.dtype}; "
            "bytes are 2 * bytes / 255 - 1"
        )
    if not torch.isfinite(measurement).all():
        raise ValueError("the measurement has entries that are not finite numbers (NaN or infinite)")
    return measurement.detach()


def check_sigma(noise_sigma: Any) -> float:
    """The noise of a measurement, a finite number of at least 0."""
    try:
        sigma = float(noise_sigma)
    except (TypeError, ValueError):
        raise ValueError(f"noise_sigma is a number in the scale of [-1, 1], got {noise_sigma!r}") from None
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"noise_sigma must be a finite number of at least 0, in the scale of [-1, 1]; got {sigma!r}")
    return sigma


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def picture_shape(
    operator: Operator, y: torch.Tensor | None, size: Sequence[int] | None, channels: int
) -> tuple[int, int, int]:
    """(C, H, W) of the picture behind a measurement.

    Args:
        operator: A.
        y: measurement; None where there is none yet.
        size: (H, W), where it is known.
        channels: that the model draws.

    Raises:
        ValueError: it does not follow; another number of channels than the model's; a size that is not the operator's.
    """
    own = operator.size
    if size is not None:
        try:
            height, width = (int(n) for n in size)
        except (TypeError, ValueError):
            raise ValueError(f"size is the pair (height, width) of the picture, got {size!r}") from None
        if height < 1 or width < 1:
            raise ValueError(f"a picture has at least 1 x 1 pixels, got a size of {height} x {width}")
        if own is not None and own != (height, width):
            raise ValueError(f"{operator.name} is made for pictures of {own[0]} x {own[1]}, not of {height} x {width}")
        return channels, height, width
    if own is not None:
        return channels, *own
    found = None
    if y is not None:
        try:
            found = operator.picture_shape(y)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"a measurement of {tuple(y.shape[1:])} is none that {operator.name} makes: {_first(error)}"
            ) from error
    if found is None and y is not None and y.ndim == 4:
        found = (channels, *y.shape[-2:])  # most operators of one's own keep the size; it is tried out in `check_fit`
    if found is None or len(found) != 3:
        raise ValueError(
            f"give size=(height, width): the size of the picture does not follow from {operator.name} and the "
            "measurement"
        )
    if found[0] != channels:
        raise ValueError(
            f"{operator.name} with this measurement is about pictures of {found[0]} channels, and the model draws "
            f"{channels}"
        )
    return int(found[0]), int(found[1]), int(found[2])


def check_fit(operator: Operator, y: torch.Tensor, shape: tuple[int, int, int]) -> None:
    """Try the operator on a picture of the model, and compare what it makes with the measurement.

    Raises:
        ValueError: it takes no such picture, or makes measurements of another shape.
    """
    try:
        with torch.no_grad():
            made = tuple(operator.A(y.new_zeros((len(y), *shape))).shape)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"{operator.name} does not take {len(y)} pictures of {shape}: {_first(error)}") from error
    if made != tuple(y.shape):
        raise ValueError(
            f"{operator.name} makes measurements of {made[1:]} from pictures of {shape}, and this one has "
            f"{tuple(y.shape[1:])}"
        )


def as_checked_operator(found: Any, y: torch.Tensor | None, shape: Sequence[int] | None) -> Operator:
    """An operator from anything with ``A``; where the shape is known, one without an adjoint is tried for linearity."""
    try:
        return as_operator(found, y, shape)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"the operator does not take pictures of {tuple(shape or ())}: {_first(error)}") from error


def check_generators(generator: Any, count: int) -> Any:
    """One generator, none, or one a sample.

    Raises:
        TypeError: something else.
        ValueError: another number of them.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if not isinstance(generator, Sequence) or not all(isinstance(g, torch.Generator) for g in generator):
        raise TypeError(
            "generator is a torch.Generator, or a list of them with one a sample; for a seed give "
            "torch.Generator().manual_seed(seed)"
        )
    if len(generator) != count:
        raise ValueError(f"{len(generator)} generators were given for {count} samples; give one a sample")
    return list(generator)


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
