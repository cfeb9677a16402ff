"""CFG-Zero*: guidance from the nearest multiple of the unconditional prediction, and a first step that stays put.

    s* = <cond, uncond> / (|uncond|^2 + 1e-8)        one number a sample
    s* uncond + scale (cond - s* uncond)             after the first `zero_init_steps` steps; zero velocity in them

s* uncond is the multiple of uncond that is nearest to cond. Where a flow model's velocity is still poor, at pure noise,
standing still is nearer to the truth than a guided step.

Reference: Fan, Zheng, Yeh, Liu 2025, CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models
(arXiv 2503.18886).
"""

from __future__ import annotations

import torch

from ..core.process import PREDICTIONS, Node, Process
from .cfg import cfg, check_pair


def optimised_scale(cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
    """s* = <cond, uncond> / (|uncond|^2 + 1e-8) of every sample, in float32.

    Args:
        cond, uncond: predictions, (B, ...).

    Returns:
        (B, 1, ..., 1) in the dtype of `cond`.

    Raises:
        ValueError: predictions of different shapes, or without a batch axis.
    """
    check_pair(cond, uncond)
    if cond.ndim < 2:
        raise ValueError(f"predictions must have a batch axis and at least one more, got {tuple(cond.shape)}")
    c, u = cond.float().flatten(1), uncond.float().flatten(1)
    scale = (c * u).sum(1) / (u.square().sum(1) + 1e-8)
    return scale.to(cond.dtype).reshape(-1, *[1] * (cond.ndim - 1))


def cfg_zero(
    cond: torch.Tensor,
    uncond: torch.Tensor,
    scale: float,
    step: int,
    zero_init_steps: int = 1,
    still: torch.Tensor | None = None,
) -> torch.Tensor:
    """CFG-Zero*: zero velocity in the first steps, then `cfg` from ``s* uncond``.

    At scale 1 it is the conditional prediction (after the first steps), at scale 0 the projection of it on `uncond`.
    The optimised scale is defined for every prediction; zero velocity is the number 0 for flow models only, and for
    others what `zero_velocity` returns.

    Args:
        cond, uncond: predictions, (B, ...).
        scale: guidance scale.
        step: number of the step in the run, from 0.
        zero_init_steps: steps of zero velocity, 0 or more. The paper advises the first 4 % of the steps.
        still: the prediction that means zero velocity, if it is not 0.

    Raises:
        ValueError: predictions of different shapes, a negative step or number of steps.
    """
    check_pair(cond, uncond)
    if step < 0 or zero_init_steps < 0:
        raise ValueError(f"step and zero_init_steps must not be negative, got {step} and {zero_init_steps}")
    if step < zero_init_steps:
        return torch.zeros_like(cond) if still is None else still
    return cfg(cond, optimised_scale(cond, uncond) * uncond, scale)


def zero_velocity(process: Process, node: Node, x: torch.Tensor) -> torch.Tensor:
    """The network's output that says "the velocity eps - x0 is 0" at a noise level: x0 = eps = x / (alpha + sigma).

    ================  ================================
    prediction        output
    ================  ================================
    flow_prediction   0
    epsilon, sample   x / (alpha + sigma)
    v_prediction      x (alpha - sigma) / (alpha + sigma)
    ================  ================================

    For a flow model x then stays where it is. For a variance-preserving one x / (alpha + sigma) stays, which is the
    same state in the coordinates of a flow: an epsilon of 0 would instead move x straight to x / alpha, far from it.

    Args:
        x: the noisy sample ``alpha x0 + sigma eps``.

    Raises:
        ValueError: an EDM-preconditioned network, whose input is not the sample.
    """
    if process.prediction not in PREDICTIONS:
        raise ValueError("zero velocity is not defined for a preconditioned (EDM) network; use zero_init_steps=0")
    if process.prediction == "flow_prediction":
        return torch.zeros_like(x)
    a, s = node.alpha, node.sigma
    return x * ((a - s if process.prediction == "v_prediction" else 1.0) / (a + s))
