"""How alike two pictures are, patch by patch: InfoNCE on the tokens of a vision transformer, or other features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy, normalize

#: ``features(pictures) -> tokens``: (B, C, H, W) in [-1, 1] to (B, N, D), differentiable.
Features = Callable[[torch.Tensor], torch.Tensor]

#: As in CLIP and MoCo v2.
TEMPERATURE = 0.07


def patch_contrast(own: torch.Tensor, other: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """InfoNCE of every picture, (B,): the patch at the same place is the positive one, all others are negative.

        L = mean_i -log( exp(cos(a_i, b_i) / T) / sum_j exp(cos(a_i, b_j) / T) )

    Args:
        own, other: tokens, (B, N, D).
        temperature: T.

    Raises:
        ValueError: tokens of two shapes, or fewer than two patches.
    """
    if own.shape != other.shape or own.ndim != 3 or own.shape[1] < 2:
        raise ValueError(
            f"features are tokens (B, N, D) of at least two patches, got {tuple(own.shape)} and {tuple(other.shape)}"
        )
    cosines = normalize(own.float(), dim=-1) @ normalize(other.float(), dim=-1).mT / temperature
    places = torch.arange(own.shape[1], device=own.device).expand(len(own), -1)
    return cross_entropy(cosines.mT, places, reduction="none").mean(1)
