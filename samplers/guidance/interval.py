"""Guidance in an interval of noise levels: outside of it the conditional prediction alone.

At high noise guidance narrows the variety of samples, at low noise it has no effect worth its second network call.

Reference: Kynkäänniemi, Aittala, Karras, Laine, Aila, Lehtinen 2024, Applying Guidance in a Limited Interval Improves
Sample and Distribution Quality in Diffusion Models (arXiv 2404.07724).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.process import Node, Process


def noise_level(process: Process, node: Node) -> float:
    """The noise level in units of the process: sigma / alpha for variance-preserving and EDM ones, sigma for flow."""
    return process.sigma_of(node)


@dataclass(frozen=True)
class GuidanceInterval:
    """Noise levels with guidance, both ends included.

    Args:
        low, high: in units of the process (`noise_level`): sigma / alpha, from 0 to infinity, for variance-preserving
            and EDM models (the paper's sigma); sigma, from 0 to 1, for flow models. 0 <= low <= high.

    Raises:
        ValueError: ends that are no numbers, negative, or in the wrong order.
    """

    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        for value in (self.low, self.high):
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
                raise ValueError(f"the ends of a guidance interval must be numbers, got {value!r}")
        if not 0 <= self.low <= self.high or math.isinf(self.low):
            raise ValueError(
                f"a guidance interval must have 0 <= low <= high, and low finite; got {self.low:g} and {self.high:g}"
            )

    @classmethod
    def parse(cls, text: str) -> GuidanceInterval:
        """An interval from "LO,HI", for example "0.3,5" or "0.3,inf".

        Raises:
            ValueError: anything else.
        """
        parts = text.split(",")
        try:
            low, high = (float(part) for part in parts)
        except ValueError:
            raise ValueError(
                f'a guidance interval is two noise levels, "LO,HI" as in "0.3,5" or "0.3,inf"; got {text!r}'
            ) from None
        return cls(low, high)

    def __contains__(self, level: float) -> bool:
        return self.low <= level <= self.high

    def __str__(self) -> str:
        return f"{self.low!r},{self.high!r}"
