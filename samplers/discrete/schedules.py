"""Noise schedules of discrete diffusion: how much of a sequence is noise at time t, and how fast it is revealed.

Time t runs from 0 (data) to 1 (noise). alpha(t) = exp(-sigma(t)) is the probability that a token is still clean,
m(t) = 1 - alpha(t) the mask ratio, and c(t) = m'(t) / m(t) = sigma'(t) / (exp(sigma(t)) - 1) the rate at which a masked
token is revealed on the way back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from ..core.registry import nearest


@dataclass(frozen=True)
class NoiseSchedule(ABC):
    """m(t), its rate and its inverse, in float64 on the host; t in [0, 1]."""

    @abstractmethod
    def mask_ratio(self, t: float) -> float:
        """m(t): share of noised tokens."""

    @abstractmethod
    def rate(self, t: float) -> float:
        """c(t) = m'(t) / m(t), per unit of t; infinite at t = 0."""

    @abstractmethod
    def time(self, mask_ratio: float) -> float:
        """The t at which m(t) is `mask_ratio`."""

    def alpha(self, t: float) -> float:
        """Probability that a token is still clean."""
        return 1.0 - self.mask_ratio(t)

    def sigma(self, t: float) -> float:
        """Total noise -log(alpha); infinite where nothing is clean."""
        m = self.mask_ratio(t)
        return math.inf if m >= 1.0 else -math.log1p(-m)


@dataclass(frozen=True)
class LogLinear(NoiseSchedule):
    """alpha = 1 - (1 - eps) t, so that c = 1/t exactly (SEDD, RADD, MDLM)."""

    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.eps < 1:
            raise ValueError(f"schedule_eps must be in [0, 1), got {self.eps!r}")

    def mask_ratio(self, t: float) -> float:
        return (1.0 - self.eps) * t

    def rate(self, t: float) -> float:
        return math.inf if t <= 0 else 1.0 / t

    def time(self, mask_ratio: float) -> float:
        return mask_ratio / (1.0 - self.eps)


@dataclass(frozen=True)
class LinearMask(LogLinear):
    """alpha = 1 - t (LLaDA, DiffusionGemma)."""

    eps: float = 0.0


@dataclass(frozen=True)
class CosineMask(NoiseSchedule):
    """m = sin(pi t / 2), c = (pi / 2) cot(pi t / 2): MaskGIT's and aMUSEd's mask ratio cos(pi r / 2), r = 1 - t."""

    def mask_ratio(self, t: float) -> float:
        return math.sin(math.pi * t / 2)

    def rate(self, t: float) -> float:
        return math.inf if t <= 0 else 0.0 if t >= 1 else math.pi / 2 / math.tan(math.pi * t / 2)

    def time(self, mask_ratio: float) -> float:
        return 2 / math.pi * math.asin(min(max(mask_ratio, 0.0), 1.0))


@dataclass(frozen=True)
class Geometric(NoiseSchedule):
    """sigma = sigma_min^(1-t) sigma_max^t (SEDD)."""

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max, got {self.sigma_min!r} and "
                f"{self.sigma_max!r}"
            )

    def sigma(self, t: float) -> float:
        return self.sigma_min ** (1 - t) * self.sigma_max**t

    def mask_ratio(self, t: float) -> float:
        return -math.expm1(-self.sigma(t))

    def rate(self, t: float) -> float:
        sigma = self.sigma(t)
        return sigma * math.log(self.sigma_max / self.sigma_min) / math.expm1(sigma)

    def time(self, mask_ratio: float) -> float:
        if mask_ratio >= 1.0:
            return 1.0
        sigma = max(-math.log1p(-mask_ratio), self.sigma_min)
        return min(math.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min), 1.0)


#: Names of the schedules in configurations.
SCHEDULES: dict[str, type[NoiseSchedule]] = {
    "log_linear": LogLinear,
    "linear": LinearMask,
    "cosine": CosineMask,
    "geometric": Geometric,
}


def noise_schedule(name: str, eps: float = 1e-3) -> NoiseSchedule:
    """A schedule by its name; `eps` is that of the log-linear one."""
    if name not in SCHEDULES:
        raise ValueError(
            f"unknown noise schedule {name!r}{nearest(str(name), SCHEDULES)} Known are {', '.join(SCHEDULES)}"
        )
    return LogLinear(eps) if name == "log_linear" else SCHEDULES[name]()
