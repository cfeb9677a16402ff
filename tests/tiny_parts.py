"""Parts of tiny random pipelines that several test files build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image


def embeds(*shape: int) -> torch.Tensor:
    """The same random numbers every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def seeded(make: Callable[[], Any]) -> Any:
    """A network with the same random weights every time."""
    torch.manual_seed(0)
    return make().eval()


def vae(channels: int = 4) -> Any:
    """(B, 3, 2h, 2w) <-> (B, channels, h, w)."""
    return seeded(
        lambda: diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=channels,
            sample_size=16,
        )
    )


def picture(size: int = 16) -> Image.Image:
    """Colours at random, the same every time."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))
