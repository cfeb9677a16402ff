"""Noise that belongs to a picture, not to its batch or its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def noise(
    shape: Sequence[int],
    seeds: Sequence[int],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Standard normal noise, (len(seeds), *shape); each sample comes from its own generator on the host in float32.

    The same seed gives the same noise whatever the batch, the device or the dtype.
    """
    if not seeds:
        raise ValueError("noise needs at least one seed")
    parts = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(parts).to(device=device, dtype=dtype)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One host generator a picture, for diffusers' pipelines."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]
