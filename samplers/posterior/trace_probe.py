"""One-probe estimate of the trace of the Hessian of log p: Hutchinson's estimator with a finite difference.

For a probe n of standard normal numbers and a step delta

    (1/d) n^T (s(x + delta n) - s(x)) / delta  ~  (1/d) Tr H,       H = grad s, s the score, d entries a sample.

It is unbiased for a quadratic log p at any delta; otherwise for the Hessian averaged over a Gaussian of width delta.
"""

from __future__ import annotations

import torch

from ..core.process import Node

PROBES = ("unit", "relative", "none")


def score(node: Node, x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """Gradient of log p at x, by Tweedie's formula: (alpha x0 - x) / sigma^2."""
    return (node.alpha * x0 - x) / node.sigma**2


def probe_step(probe: str, scale: float, node: Node) -> float:
    """Length delta of a probe: 1 for ``"unit"``, ``scale`` times the noise level for ``"relative"``."""
    return 1.0 if probe == "unit" else scale * node.sigma


def probed_trace(normal: torch.Tensor, here: torch.Tensor, there: torch.Tensor, delta: float) -> torch.Tensor:
    """n^T (s(x + delta n) - s(x)) / (delta d) of every sample, (B,), in float32 or better.

    Args:
        normal: n, (B, ...).
        here, there: scores at x and at x + delta n.
        delta: length of the probe.
    """
    product = (normal * (there - here)).flatten(1)
    return product.mean(1) / delta
