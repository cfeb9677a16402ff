"""Classifier-free guidance: the prediction is pushed away from the unconditional one."""

from __future__ import annotations

import torch


def check_pair(cond: torch.Tensor, uncond: torch.Tensor) -> None:
    """Refuse two predictions that do not belong together.

    Raises:
        ValueError: different shapes.
    """
    if cond.shape != uncond.shape:
        raise ValueError(
            f"the conditional and the unconditional prediction must have one shape, got {tuple(cond.shape)} and "
            f"{tuple(uncond.shape)}"
        )


def cfg(cond: torch.Tensor, uncond: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance: ``uncond + scale * (cond - uncond)``.

    A scale of 1 is the conditional prediction, 0 the unconditional one. Holds for every kind of prediction (epsilon,
    x0, v, flow velocity), because they are linear in each other at one noise level.

    Args:
        cond, uncond: predictions with and without the condition, (B, ...).
        scale: guidance scale, usually 1 to 15.

    Raises:
        ValueError: predictions of different shapes.

    Reference: Ho and Salimans 2022, Classifier-Free Diffusion Guidance (arXiv 2207.12598).
    """
    check_pair(cond, uncond)
    return uncond + scale * (cond - uncond)
